"""Every command and function with an exported model: it works, or one sentence says to load the original checkpoint."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import commands, main
from vitkit.data.processor import Processor
from vitkit.explanation import methods
from vitkit.inference import classifier, runtimes
from vitkit.inference.runtimes import load_export
from vitkit.layers import block_indices

LIBRARIES = {"onnx": "onnxscript", "openvino": "openvino"}
TARGETS = [each if each == "program" else pytest.param(each, marks=pytest.mark.slow) for each in runtimes.targets()]
# Commands that do not take a model.
NO_MODEL = {"demo", "models", "paper", "recipes", "train", "bench", "check", "new", "predict"}
WORKS = {
    "classify": "classify {model} {images}",
    "embed": "embed {model} {images} --out {out}/e.npz",
    "evaluate": "evaluate {model} --data folder:{photos} --out {out}/report",
    "evaluate flops": "evaluate {model} --data folder:{photos} --with flops,probe",
}
REFUSED = {
    "inspect": ("inspect {model}", "is an exported model.*checkpoint from which it was exported"),
    "convert": ("convert {model} {out}/c --to timm", "is an exported model.*checkpoint from which it was exported"),
    "export": ("export {model} --to program --out {out}/x", "the model is an export already.*original checkpoint"),
    "finetune": (
        "finetune {model} --data folder:{photos} --out {out}/run",
        "is an exported model.*checkpoint from which it was exported",
    ),
    "bench": ("bench inference --model {model}", "is an exported model.*checkpoint from which it was exported"),
    "embed --blocks": (
        "embed {model} {images} --blocks 0",
        "does not return the outputs of blocks.*original checkpoint",
    ),
    "int8": ("classify {model} {images} --precision int8", "not in int8; load the original"),
    "bfloat16": (
        "embed {model} {images} --precision bfloat16",
        "float32, not in bfloat16; load the original checkpoint",
    ),
    "merge": ("classify {model} {images} --merge-tokens 1", "not with token merging; load the original checkpoint"),
    "compile": ("classify {model} {images} --compile", r"not with torch\.compile; load the original checkpoint"),
    "image size": (
        "classify {model} {images} --image-size 64",
        "image_size cannot be changed; export the checkpoint again",
    ),
    "set": ("classify {model} {images} --set num_heads=1", "config cannot be changed; export the checkpoint again"),
    "linear": ("evaluate {model} --data folder:{photos} --with linear", "which an exported model does not.*checkpoint"),
    "segmentation": (
        "evaluate {model} --data folder:{photos} --with segmentation:{photos}",
        "exported model.*load the original checkpoint",
    ),
} | {
    f"explain {method}": (
        f"explain {{model}} {{images}} --method {method} --out {{out}}/e.png",
        "an exported model returns no attention weights, block outputs or gradients.*load the original checkpoint",
    )
    for method in methods()
}


def words(line: str, place: Path, target: str, out: Path) -> list[str]:
    names = {"model": place / target, "images": place / "photos" / "val", "photos": place / "photos", "out": out}
    return [word.format(**names) for word in shlex.split(line)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=2))
    torch.nn.init.normal_(model.head.weight)
    made = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("cat", "dog"))
    checkpoints.save(made, folder / "model")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in made.labels:
            (folder / "photos" / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{index}.png")
    return folder


@pytest.fixture
def exported(place: Path, request: pytest.FixtureRequest) -> str:
    target: str = request.param
    if target in LIBRARIES:
        pytest.importorskip(LIBRARIES[target], reason="needs the extra: pip install 'vitkit[export]'")
    if not (place / target).exists():
        runtimes.export(checkpoints.load(place / "model"), place / target, to=target)
    return target


def test_every_command_with_a_model_is_tested() -> None:
    tested = {line.split()[0] for line in (*WORKS.values(), *(line for line, _ in REFUSED.values()))}
    assert set(commands()) - NO_MODEL - tested == set()


@pytest.mark.parametrize("exported", TARGETS, indirect=True)
@pytest.mark.parametrize("case", WORKS)
def test_commands_that_predict_run(
    case: str, exported: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(WORKS[case], place, exported, tmp_path)) == 0, capsys.readouterr().err
    if case == "evaluate flops":
        out = capsys.readouterr().out
        model = checkpoints.load(place / "model").model
        assert f"{sum(each.numel() for each in model.parameters()) / 1e6:.4g}" in out


@pytest.mark.parametrize("exported", TARGETS, indirect=True)
def test_other_commands_say_what_to_load(
    exported: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "load_export", cache(load_export))  # once, not for each command
    for line, message in REFUSED.values():
        assert main(words(line, place, exported, tmp_path)) == 1, line
        error = capsys.readouterr().err
        assert error.count("\n") == 1, (line, error)
        assert re.search(message, error), (line, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exported", TARGETS, indirect=True)
def test_functions_and_methods(exported: str, place: Path, tmp_path: Path) -> None:
    model = vitkit.load(place / exported)
    images = model.processor(place / "photos" / "val" / "cat" / "0.png")
    original = vitkit.load(place / "model")
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            model.features(images).tokens, original.features(images).tokens, atol=1e-4, rtol=1e-4
        )
    calls: dict[str, Any] = {
        "save": lambda: model.save(tmp_path / "a"),
        "export": lambda: vitkit.export(model, tmp_path / "b", to="program"),
        "explain": lambda: vitkit.explain(model, place / "photos" / "val"),
        "blocks": lambda: vitkit.embed(model, place / "photos" / "val", blocks=(0,)),
        "features": lambda: model.features(images, (0,)),
        "train": lambda: model.model.reset_head(3),
        "state_dict": lambda: model.state_dict(),
        "half": lambda: model.half(),
        "classify": lambda: vitkit.classify(model, place / "photos" / "val", compile=True),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"export") as caught:
            call()
        assert "\n" not in str(caught.value), name
    assert "Classifier" in repr(model)
    with pytest.raises(
        ValueError, match=r"put the channels first with images\.permute\(0, 3, 1, 2\)|exported for images of"
    ):
        model(images.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"got torch\.uint8"):
        model((images * 255).byte())
    with torch.no_grad():
        torch.testing.assert_close(model(images.bfloat16()), model(images), atol=0.1, rtol=0.1)


def test_blocks_of_a_model_without_blocks() -> None:
    with pytest.raises(ValueError, match="original checkpoint"):
        block_indices((0,), 0)
