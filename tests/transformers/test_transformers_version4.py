"""Comparison with transformers 4.57.6, installed by `python scripts/transformers4.py FOLDER`, in another process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_transformers_side_by_side import CLOSE, COMMON, CONFIGS, OURS

from vitkit import ViTConfig, ViTImageProcessor

ORACLE = Path(__file__).parent / "oracle_transformers4.py"
CASES = [(name, kind) for name in CONFIGS for kind in OURS]


def make(name: str, kind: str) -> Any:
    torch.manual_seed(0)
    model = OURS[kind](ViTConfig(**COMMON | {"num_attention_heads": 4} | CONFIGS[name] | extra(name)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def extra(name: str) -> dict[str, Any]:
    # A layer needs more than one head for pruning.
    return {"num_attention_heads": 4} if name == "google" else {}


def make_inputs(model: Any, kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    config = model.config
    inputs = {
        "pixel_values": torch.randn(2, config.num_channels, config.image_size, config.image_size, generator=generator),
        "head_mask": torch.rand(config.num_hidden_layers, config.num_attention_heads, generator=generator),
    }
    if kind == "ViTForImageClassification":
        inputs["labels"] = torch.tensor([0, 3])
    elif kind == "ViTForMaskedImageModeling":
        inputs["bool_masked_pos"] = torch.rand(2, model.vit.embeddings.patch_embeddings.num_patches) < 0.5
    return inputs


def load_images(shared: Path) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    random = [Image.fromarray(generator.integers(0, 256, (33, 57, 3), dtype=np.uint8))]
    paths = sorted((shared / "data" / "imagenet_sample").glob("*.JPEG"))[::10]
    return random + [Image.open(path).convert("RGB") for path in paths]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    packages = os.environ.get("VITKIT_TRANSFORMERS4")
    if not packages or not Path(packages).is_dir():
        pytest.skip("needs transformers 4: run scripts/transformers4.py FOLDER and set VITKIT_TRANSFORMERS4=FOLDER")
    folder = tmp_path_factory.mktemp("version4")
    for name, kind in CASES:
        model = make(name, kind)
        model.save_pretrained(folder / f"{name}-{kind}")
        arrays = {key: tensor.numpy() for key, tensor in make_inputs(model, kind).items()}
        np.savez(folder / f"{name}-{kind}" / "inputs.npz", **arrays)
    ViTImageProcessor(size=100).save_pretrained(folder / "images")
    for index, image in enumerate(load_images(shared)):
        image.save(folder / "images" / f"{index:04}.png")
    path = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])
    run = [sys.executable, str(ORACLE), str(folder)]
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def compare(expected: dict[str, np.ndarray], prefix: str, output: Any, dtype: torch.dtype = torch.float32) -> None:
    compared = 0
    for name, value in output.items():
        for index, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            reference = torch.from_numpy(expected[f"{prefix}.{name}.{index}"])
            torch.testing.assert_close(tensor.float(), reference, **CLOSE[dtype])
            compared += 1
    assert compared == len([key for key in expected if key.startswith(f"{prefix}.")])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_match_version_4(outputs: Path, name: str, kind: str) -> None:
    """Outputs, gradients, head masks, pruned heads, half precision, and loading the folder that version 4 saves."""
    folder = outputs / f"{name}-{kind}"
    expected = dict(np.load(folder / "out.npz"))
    model, inputs = make(name, kind), make_inputs(make(name, kind), kind)
    inputs = {key: torch.from_numpy(array) for key, array in np.load(folder / "inputs.npz").items()}
    mask = inputs.pop("head_mask")
    compare(expected, "plain", model(**inputs, output_attentions=True, output_hidden_states=True))
    compare(expected, "masked", model(**inputs, head_mask=mask, output_attentions=True))
    gradients = {key[9:]: value for key, value in expected.items() if key.startswith("gradient.")}
    if gradients:
        model(**inputs).loss.backward()
        own = dict(model.named_parameters())
        for key, value in gradients.items():
            torch.testing.assert_close(own[key].grad, torch.from_numpy(value), **CLOSE[torch.float32])
        assert list(gradients) == list(own)
    model.prune_heads({0: [1], 1: [0]})
    compare(expected, "pruned", model(**inputs))
    again, report = OURS[kind].from_pretrained(folder / "again", output_loading_info=True)
    assert not any(report.values())
    compare(expected, "plain", again(**inputs, output_attentions=True, output_hidden_states=True))
    compare(expected, "half", again.bfloat16()(**inputs), torch.bfloat16)


@pytest.mark.slow
def test_processor_is_bitwise_equal_to_the_slow_one_of_version_4(outputs: Path, shared: Path) -> None:
    expected = np.load(outputs / "images" / "out.npz")
    ours = ViTImageProcessor.from_pretrained(outputs / "images" / "again")
    images = load_images(shared)
    assert len(images) == len(expected.files) > 20
    for name, image in zip(expected.files, images, strict=True):
        assert np.array_equal(ours(image).pixel_values[0], expected[name])
