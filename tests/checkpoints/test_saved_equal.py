"""`save` writes only what `load` gives back equal, and nothing is lost without `lossy`."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vits import GOOGLE, SUPPORTED, TINY, checkpoint, images
from torch import nn
from torch.nn.utils import parametrizations, prune

import vitkit
from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError, LossyWarning
from vitkit.checkpoints.formats import all_formats, formats_for
from vitkit.cli import main
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.inference import runtimes
from vitkit.models import vit
from vitkit.task import Task

LABELS = ("daisy", "dandelion", "rose", "sunflower", "tulip")
CROPPED = Processor.crop(32, 0.9, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic")


def folder_is_as_before(folder: Path) -> bool:
    """Whether the folder has nothing but the checkpoint that the test wrote first."""
    found = checkpoints.load(folder / "old")
    return [path.name for path in folder.iterdir()] == ["old"] and found.labels == LABELS


def own_class(made: Checkpoint) -> None:
    class Doubled(type(made.model)):
        def logits(self, features: Any) -> Any:
            return 2 * super().logits(features)

    made.model.__class__ = Doubled


def set_parameter(module: nn.Module, name: str, value: torch.Tensor) -> None:
    module.register_parameter(name, nn.Parameter(value))


# Changes of a model that a checkpoint cannot hold, with a part of the message.
MODELS: dict[str, tuple[Callable[[Any], object], str]] = {
    "head of other size": (
        lambda m: setattr(m, "head", nn.Linear(64, 3)),
        r"head\.weight has the shape \(3, 64\).*reset_head",
    ),
    "head without bias": (lambda m: setattr(m, "head", nn.Linear(64, 5, bias=False)), r"head\.bias is missing"),
    "head of other width": (lambda m: setattr(m, "head", nn.Linear(32, 5)), r"head\.weight has the shape \(5, 32\)"),
    "head of two layers": (lambda m: setattr(m, "head", nn.Sequential(nn.Linear(64, 5))), r"head\.weight is missing"),
    "no head": (lambda m: setattr(m, "head", nn.Identity()), r"head\.weight is missing"),
    "extra parameter": (
        lambda m: set_parameter(m, "scale", torch.ones(3)),
        r"scale has the shape \(3,\).*no such tensor",
    ),
    "extra buffer": (lambda m: m.register_buffer("mine", torch.ones(3)), r"mine has the shape \(3,\)"),
    "extra layer": (lambda m: setattr(m, "adapter", nn.Linear(4, 4)), r"adapter\.weight"),
    "extra module": (
        lambda m: m.blocks[0].add_module("more", nn.Tanh()),
        r"does not describe the module blocks\.0\.more",
    ),
    "removed block": (lambda m: m.blocks.__delitem__(1), r"blocks\.1\.norm1\.weight is missing"),
    "added block": (lambda m: m.blocks.append(nn.Linear(3, 3)), r"blocks\.2\.weight"),
    "activation": (
        lambda m: setattr(m.blocks[0].mlp, "act", nn.Tanh()),
        r"blocks\.0\.mlp\.act is a Tanh.*describes a GELU",
    ),
    "variant": (
        lambda m: setattr(m.blocks[0].mlp.act, "approximate", "tanh"),
        r"act\.approximate is tanh.*describes none",
    ),
    "eps": (
        lambda m: setattr(m.norm, "eps", 1e-3),
        r"norm\.eps is 0\.001, but the config of the model describes 1e-06",
    ),
    "heads": (lambda m: setattr(m.blocks[0].attn, "num_heads", 4), r"blocks\.0\.attn\.num_heads is 4"),
    "dropout": (lambda m: setattr(m.blocks[0].dropout, "p", 0.5), r"blocks\.0\.dropout\.p is 0\.5"),
    "removed norm": (lambda m: setattr(m, "norm", nn.Identity()), r"norm\.weight is missing"),
    "hook": (lambda m: m.norm.register_forward_hook(lambda _, __, out: -out), r"cannot store a forward hook on norm"),
    "pre-hook": (lambda m: m.register_forward_pre_hook(lambda _, args: (-args[0],)), r"a forward hook on the model"),
    "method": (
        lambda m: setattr(m, "represent", lambda x: -x.class_token),
        r"the replaced method represent of the model",
    ),
    "weight norm": (lambda m: parametrizations.weight_norm(m.head), r"the parametrization of head cannot be stored"),
    "pruning": (lambda m: prune.l1_unstructured(m.head, "weight", 0.5), r"head\.weight is missing|head\.weight_orig"),
    "config": (lambda m: setattr(m, "config", dataclasses.replace(m.config, width=32)), r"the config of the model"),
    "config of another pool": (lambda m: setattr(m, "config", dataclasses.replace(m.config, norm="pooled")), r"norm"),
    "number of classes": (lambda m: setattr(m, "config", dataclasses.replace(m.config, num_classes=7)), r"7 classes"),
    "thresholds": (
        lambda m: setattr(
            m,
            "config",
            dataclasses.replace(m.config, task=Task(problem_type="multi_label_classification", threshold=(0.1, 0.2))),
        ),
        r"threshold has 2 numbers, but the model has 5 outputs",
    ),
}


@pytest.mark.parametrize("to", ["huggingface", pytest.param("vitkit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_would_not_come_back_equal_is_refused(name: str, to: str, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY, labels=LABELS), tmp_path / "old", to=to)
    change, message = MODELS[name]
    made = checkpoint(TINY)
    change(made.model)
    for target in (tmp_path / "new" / "deeper", tmp_path / "old"):
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints.save(made, target, to=to, overwrite=True)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert folder_is_as_before(tmp_path)


def test_classes_of_the_user_are_refused_if_they_compute_something_else(tmp_path: Path) -> None:
    made = checkpoint(TINY)
    own_class(made)
    with pytest.raises(CheckpointError, match="cannot store the class Doubled of the model"):
        checkpoints.save(made, tmp_path / "x")

    class Processor2(Processor):
        pass

    given = {field.name: getattr(made.processor, field.name) for field in dataclasses.fields(Processor)}
    with pytest.raises(CheckpointError, match="the processor is a Processor2, which cannot be stored"):
        checkpoints.save(checkpoint(TINY, processor=Processor2(**given)), tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"cannot hold the class names"):
        checkpoints.save(checkpoint(TINY, labels=("a\nb", *LABELS[1:])), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_changes_no_output_can_be_saved(tmp_path: Path) -> None:
    made = checkpoint(TINY)
    seen = []
    made.model.blocks[0].register_forward_hook(lambda _, __, out: seen.append(out.shape))
    made.model.train()
    made.model.note = "trained on Monday"
    made.model.head.requires_grad_(False)

    class Mine(type(made.model)):
        pass

    made.model.__class__ = Mine
    checkpoints.save(made, tmp_path / "x")
    assert made.model.training
    assert type(checkpoints.load(tmp_path / "x").model) is vit.ViT


def test_a_replaced_head_is_saved_after_the_config_and_labels_have_changed(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "a")
    model = vitkit.load(tmp_path / "a")
    model.model.head = nn.Linear(64, 3)
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="has 3 outputs, but there are 5 labels"):
        model.classify(image)
    with pytest.raises(CheckpointError, match="reset_head"):
        model.save(tmp_path / "b")
    model.model.reset_head(3)
    model.labels = ("x", "y", "z")
    nn.init.normal_(model.model.head.weight)
    model.save(tmp_path / "b")
    again = vitkit.load(tmp_path / "b")
    assert again.labels == model.labels
    assert [p.label for p in again.classify(image)[0].predictions] == [
        p.label for p in model.classify(image)[0].predictions
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_values_of_any_dtype_and_not_a_number_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    made = checkpoint(dataclasses.replace(TINY, position="sincos2d"))
    made.model.to(dtype)
    made.model.head.bias.data[0] = float("nan")
    made.model.blocks[1].double()
    assert checkpoints.save(made, tmp_path / "x") == "vitkit"
    loaded = checkpoints.load(tmp_path / "x", dtype=None).model
    assert {name: each.dtype for name, each in loaded.named_parameters()} == {
        name: each.dtype for name, each in made.model.named_parameters()
    }


def test_placeholders_of_1000_classes_come_back(tmp_path: Path) -> None:
    labels = tuple(f"class {index}" for index in range(1000))
    made = checkpoint(dataclasses.replace(TINY, num_classes=1000), labels=labels)
    for to in ("huggingface", "timm", "vitkit"):
        checkpoints.save(made, tmp_path / to, to=to)
        assert checkpoints.load(tmp_path / to).labels == labels


def test_damage_while_writing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (chosen,) = [each for each in all_formats() if each.name == "vitkit"]

    def damaged(made: Checkpoint, folder: Path) -> None:
        chosen.write(made, folder)
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    module = sys.modules["vitkit.checkpoints.save"]  # the package has a function of this name
    monkeypatch.setattr(module, "formats_for", lambda _: [dataclasses.replace(chosen, write=damaged)])
    with pytest.raises(CheckpointError, match=r"the tensors \S+ have other values"):
        checkpoints.save(checkpoint(TINY), tmp_path / "x", to="vitkit")
    assert list(tmp_path.iterdir()) == []


THINGS: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"labels": LABELS}, r"the class names \(daisy, dandelion, \.\.\., read as class 0\)"),
    "preprocessing": ({"processor": CROPPED}, r"the preprocessing \("),
    "threshold": (
        {"task": Task(problem_type="multi_label_classification", threshold=0.3)},
        r"the task",
    ),
    "regression": (
        {"task": Task(problem_type="regression", target_mean=(1.0,) * 5, target_std=(2.0,) * 5)},
        r"the task",
    ),
    "rate": ({"stochastic_depth": 0.3}, r"the config \(.*stochastic_depth 0\.3, read as 0\.0"),
    "resize": ({"position_resize": "bicubic_offset"}, r"position_resize bicubic_offset, read as"),
    "eps": ({"norm_eps": 1e-12}, r"norm_eps"),
}


def made_with(name: str, thing: str) -> Checkpoint:
    config = next(each for each in SUPPORTED[name] if each.num_classes)
    fields = THINGS[thing][0]
    changes = {key: value for key, value in fields.items() if key not in ("labels", "processor")}
    rest = {key: value for key, value in fields.items() if key in ("labels", "processor")}
    if config.channels != 3 and "processor" in rest:
        rest["processor"] = CROPPED.with_channels(config.channels)
    return checkpoint(dataclasses.replace(config, **changes), **rest)


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    "name", sorted(name for name in SUPPORTED if any(each.num_classes for each in SUPPORTED[name]))
)
def test_every_format_holds_everything_or_names_what_it_leaves_out(name: str, thing: str, tmp_path: Path) -> None:
    made = made_with(name, thing)
    target = tmp_path / f"x{formats_for(name)[0].suffix}"
    try:
        checkpoints.save(made, target, to=name)
    except CheckpointError as error:
        message = str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        assert_equal(made, checkpoints.load(target))
        return
    assert "--lossy" in message
    saved = checkpoints.save_checked(made, target, to=name, lossy=True)
    assert saved.dropped
    if formats_for(name)[0].suffix:
        assert re.search(THINGS[thing][1], " and ".join(saved.dropped)), saved.dropped
    loaded = checkpoints.load(target)
    left = " ".join(saved.dropped)
    if "class names" not in left:
        assert loaded.labels == made.labels
    if "preprocessing" not in left:
        assert loaded.processor == made.processor


def assert_equal(made: Checkpoint, loaded: Checkpoint) -> None:
    assert loaded.labels == made.labels
    assert loaded.processor == made.processor
    assert loaded.model.config == made.model.config
    batch = images(made.model.config.image_size, made.model.config.channels)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(batch), made.model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [each for each in models.families() if each != "vit"])
def test_every_family_and_format_give_back_an_equal_model_or_say_what_is_lost(family: str, tmp_path: Path) -> None:
    config = models.family(family).TINY
    labels = tuple(f"kind {index}" for index in range(config.num_classes))
    processor = Processor.crop(config.image_size, 0.9, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    made = checkpoint(config, labels=labels, processor=processor.with_channels(config.channels))
    written = []
    for to in checkpoints.list_formats():
        if not (matching := [each for each in formats_for(to) if each.family in (None, family)]):
            continue
        target = tmp_path / f"{to}{matching[0].suffix}"
        try:
            checkpoints.save(made, target, to=to)
        except CheckpointError as error:
            assert "use to=" in str(error) or "--lossy" in str(error), error  # noqa: PT017
            assert not target.exists()
        else:
            assert_equal(made, checkpoints.load(target))
            written.append(to)
    assert "vitkit" in written


def test_lossy_names_each_thing_in_python_and_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(TINY, norm_eps=1e-12, position_resize="bicubic")
    made = checkpoint(config, labels=LABELS, processor=CROPPED)
    checkpoints.save(made, tmp_path / "best")
    arguments = ["convert", str(tmp_path / "best"), str(tmp_path / "fb.pth"), "--to", "torchvision"]
    assert main(arguments) == 1
    assert "--lossy" in capsys.readouterr().err
    assert main([*arguments, "--set", "norm_eps=1e-6"]) == 1
    error = capsys.readouterr().err
    assert "the class names (daisy, dandelion, ..., read as class 0)" in error
    assert "the preprocessing (" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "fb.pth").exists()
    assert main([*arguments, "--lossy"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0].rpartition("the ")[2] for line in lines] == [
        "class names",
        "preprocessing",
        "config",
    ]
    assert "norm_eps 1e-12, read as 1e-06" in lines[2]
    with pytest.warns(LossyWarning) as caught:
        checkpoints.save(made, tmp_path / "py.pth", to="torchvision", lossy=True)
    assert len(caught) == 3
    torch.testing.assert_close(torch.load(tmp_path / "py.pth"), torch.load(tmp_path / "fb.pth"))
    assert json.loads((tmp_path / "best" / "config.json").read_text())["id2label"]["0"] == "daisy"


def test_a_file_that_holds_everything_needs_no_lossy(tmp_path: Path) -> None:
    google = Processor.squash(GOOGLE.image_size, interpolation="bilinear")
    made = checkpoint(GOOGLE, processor=dataclasses.replace(google, profile="ignore"))
    assert checkpoints.save(made, tmp_path / "x.npz", to="npz") == "npz"
    assert_equal(made, checkpoints.load(tmp_path / "x.npz"))


def test_a_number_of_heads_that_the_file_cannot_hold_is_named(tmp_path: Path) -> None:
    made = checkpoint(dataclasses.replace(TINY, width=40, num_heads=2, position_resize="bicubic"))
    with pytest.raises(CheckpointError, match=r"cannot hold the config \(num_heads 2, which `load` must be given\)"):
        checkpoints.save(made, tmp_path / "x.pth", to="torchvision")
    saved = checkpoints.save_checked(made, tmp_path / "x.pth", to="torchvision", lossy=True)
    assert "num_heads 2" in saved.dropped[0]
    loaded = checkpoints.load(tmp_path / "x.pth", config={"num_heads": 2})
    assert loaded.model.config.num_heads == 2


def test_exports_refuse_labels_and_hooks_that_would_be_lost(tmp_path: Path) -> None:
    made: Any = checkpoint(TINY)
    handle = made.model.register_forward_hook(lambda _, __, out: -out)
    with pytest.raises(ValueError, match=r"a forward hook on the model.* would not be exported"):
        runtimes.export(made, tmp_path / "x", to="program")
    handle.remove()
    made.model.head = nn.Linear(64, 3)
    with pytest.raises(ValueError, match="the model has 3 outputs, but there are 5 labels"):
        runtimes.export(made, tmp_path / "x", to="program")
    made.model.head = nn.Linear(32, 5)
    with pytest.raises(ValueError, match="the model cannot run"):
        runtimes.export(made, tmp_path / "x", to="program")
    assert list(tmp_path.iterdir()) == []
