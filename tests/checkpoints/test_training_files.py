"""Files that training scripts write: each loads with equal outputs, or is rejected in one sentence."""

import argparse
import collections
import datetime
import enum
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from slow_cases import slow_except
from tiny_vits import TINY, checkpoint, images
from torch import Tensor

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError

State = dict[str, Tensor]
MODEL = checkpoint(TINY).model
STATE: State = {name: tensor.detach().clone() for name, tensor in MODEL.state_dict().items()}
OTHER: State = {name: tensor + 1 for name, tensor in STATE.items()}


class Stage(enum.Enum):
    """A class of the training script, which is not importable where the file is read."""

    FIT = 1


def _prefixed(prefix: str, state: State = STATE) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _inserted(part: str) -> State:
    """Names with a wrapper around every block and around every MLP."""
    names = {name: name.replace(".mlp.", f".mlp.{part}.") for name in STATE}
    return {
        ".".join([*new.split(".")[:2], part, *new.split(".")[2:]]) if new.startswith("blocks.") else new: STATE[old]
        for old, new in names.items()
    }


def _chunked(own_numbers: bool) -> State:
    """Names with one block per chunk."""
    state: State = {}
    for name, tensor in STATE.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts.insert(2, parts[1] if own_numbers else "0")
        state[".".join(parts)] = tensor
    return state


def _classifier(prefix: str, head: str) -> State:
    """A Lightning module that has a backbone without a head, and a linear layer next to it."""
    return {
        name.replace("head.", head) if name.startswith("head.") else f"{prefix}{name}": tensor
        for name, tensor in STATE.items()
    }


def _backbone() -> State:
    return {name: tensor for name, tensor in STATE.items() if not name.startswith("head.")}


def _head() -> State:
    return {leaf: STATE[f"head.{leaf}"] for leaf in ("weight", "bias")}


def _extras() -> dict[str, Any]:
    """Values of all kinds that training scripts save next to the weights."""
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(5, 7), "exp_avg_sq": torch.ones(5, 7)}}
    return {
        "epoch": 3,
        "best_acc1": torch.tensor(81.2),
        "metric": np.float64(81.2),
        "curve": np.arange(4.0),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs/1")),
        "config": collections.OrderedDict(a=[1, (2, None)], b={"c"}, when=datetime.timedelta(seconds=1)),
        "stage": Stage.FIT,
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "lr_schedulers": [{"last_epoch": 3}],
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(1.0)}},
        "rng_state": torch.zeros(16, dtype=torch.uint8),
        "dino_loss": {"center": torch.zeros(1, 9)},
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }


# The dicts that `torch.save` gets.
WRAPPERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: STATE,
    "model": lambda: {"model": STATE},
    "state_dict": lambda: {"state_dict": STATE},
    "lightning": lambda: {"state_dict": _prefixed("model."), "pytorch-lightning_version": "2.6"},
    "deepspeed": lambda: {"module": STATE, "param_shapes": [{"cls_token": torch.Size([1, 1, 64])}], "dp_world_size": 2},
    "ddp": lambda: _prefixed("module."),
    "compiled": lambda: _prefixed("_orig_mod."),
    "compiled blocks": lambda: _inserted("_orig_mod"),
    "checkpointed blocks": lambda: _inserted("_checkpoint_wrapped_module"),
    "fsdp": lambda: _prefixed("_fsdp_wrapped_module.", _inserted("_fsdp_wrapped_module")),
    "lightning with deepspeed": lambda: {"module": _prefixed("_forward_module.model._orig_mod.")},
    "chunks of DINOv2": lambda: {"teacher": _prefixed("backbone.", _chunked(own_numbers=True))},
    "chunks with numbers from 0": lambda: _chunked(own_numbers=False),
    "ema": lambda: {"model": OTHER, "model_ema": STATE},
    "timm's ema": lambda: {"state_dict": OTHER, "state_dict_ema": STATE},
    "ema in the same dict": lambda: {"state_dict": _prefixed("net.", OTHER) | _prefixed("ema_net.module.")},
    "swa": lambda: _prefixed("module.") | {"n_averaged": torch.tensor(5)},
    "swa of lightning": lambda: {"state_dict": _prefixed("swa_model.module."), "n_averaged": torch.tensor(5)},
    "teacher and student": lambda: {"student": _prefixed("backbone.", OTHER), "teacher": _prefixed("backbone.")},
    "list of states": lambda: {"models": [STATE]},
    "vit": lambda: _prefixed("vit."),
    "network": lambda: {"state_dict": _prefixed("network.")},
    "encoder": lambda: _prefixed("encoder."),
    "feature_extractor": lambda: _prefixed("feature_extractor."),
    "deep prefix": lambda: {"checkpoint": {"weights": _prefixed("trunk.body.0.")}},
    "head beside": lambda: {"state_dict": _classifier("backbone.", "head.")},
    "classifier beside": lambda: {"state_dict": _classifier("model.", "classifier.")},
    "sequential classifier": lambda: {"state_dict": _classifier("net.vit.", "cls.1.")},
    "head beside and metrics": lambda: {
        "state_dict": _classifier("backbone.", "fc.")
        | {"criterion.weight": torch.ones(5), "train_acc.correct": torch.tensor(3), "n": torch.tensor(1)}
    },
    "a classifier called predictor": lambda: {"state_dict": _classifier("net.", "predictor.")},
    "a projector of pre-training": lambda: {
        "state_dict": _prefixed("net.")
        | {
            "projector.0.weight": torch.ones(9, 64),
            "projector.0.bias": torch.ones(9),
            "prototypes.weight": torch.ones(9, 9),
        }
    },
    "a linear projector": lambda: {
        "state_dict": _prefixed("net.") | {"projector.weight": torch.ones(9, 64), "projector.bias": torch.ones(9)}
    },
    "dicts of backbone and head": lambda: {"backbone": _backbone(), "head": _head()},
}
# What cannot be loaded, and what the message says.
REJECTED: dict[str, tuple[Callable[[], Any], str]] = {
    "two equal copies": (
        lambda: {"net_a": STATE, "net_b": OTHER},
        r"several sets of weights, net_a, net_b; append .*FILE:net_a",
    ),
    "two heads": (
        lambda: {"state_dict": _prefixed("backbone.") | {"head.weight": torch.ones(3, 5), "head.bias": torch.ones(3)}},
        r"head\.weight, state_dict\.head\.bias; .* pass FILE:state_dict\.backbone",
    ),
    "an MLP head": (
        lambda: {
            "state_dict": _prefixed("backbone.", _backbone())
            | {"mlp.0.weight": torch.ones(9, 64), "mlp.0.bias": torch.ones(9), "mlp.2.weight": torch.ones(5, 9)}
        },
        r"could change the output: .*mlp\.0\.weight, ",
    ),
    "a head of a norm and a linear layer": (
        lambda: {
            "state_dict": _prefixed("backbone.", _backbone())
            | {"head.0.weight": torch.ones(64), "head.0.bias": torch.ones(64)}
            | {f"head.1.{leaf}": tensor for leaf, tensor in _head().items()}
        },
        r"could change the output: .*head\.0\.weight, .*head\.1\.bias",
    ),
    "a batch norm in the head": (
        lambda: (
            _backbone()
            | {"head.0.running_mean": torch.ones(64)}
            | {f"head.1.{leaf}": tensor for leaf, tensor in _head().items()}
        ),
        r"3 tensors are unknown: head\.0\.running_mean, head\.1\.weight, head\.1\.bias",
    ),
    "an MLP in the head": (
        lambda: _backbone() | {f"head.mlp.{leaf}": tensor for leaf, tensor in _head().items()},
        r"2 tensors are unknown: head\.mlp\.weight, head\.mlp\.bias",
    ),
    "an unmerged adapter": (
        lambda: STATE | {"blocks.0.attn.qkv.lora_A.weight": torch.ones(2, 64)},
        r"LoRA adapters that are not merged; merge them with peft",
    ),
    "a head without bias": (
        lambda: {"state_dict": _prefixed("net.", _backbone()) | {"fc.weight": torch.ones(5, 64)}},
        r"could change the output: state_dict\.fc\.weight",
    ),
    "an image tower and a text tower": (
        lambda: _prefixed("visual.trunk.", _backbone()) | {"text.embedding.weight": torch.ones(9, 9)},
        r"text\.embedding\.weight; .* pass FILE:visual\.trunk",
    ),
    "a temperature": (
        lambda: {"state_dict": _prefixed("net.") | {"temperature": torch.tensor(2.0)}},
        r"could change the output: state_dict\.temperature",
    ),
    "an adapter in the blocks": (
        lambda: STATE | {"blocks.0.adapter.weight": torch.ones(2, 2)},
        r"1 tensor is unknown: blocks\.0\.adapter\.weight",
    ),
    "a missing tensor": (
        lambda: {k: v for k, v in STATE.items() if k != "norm.bias"},
        r"1 tensor is missing: norm\.bias",
    ),
    "a pickled module": (lambda: torch.nn.Linear(2, 2), r"pickled module \(torch.*Linear\).*state_dict\(\)"),
    "a pickled module in a dict": (
        lambda: {"model": torch.nn.Linear(2, 2), "epoch": 1},
        r"pickled module .*state_dict",
    ),
    "one tensor": (lambda: torch.ones(3), "contains a single tensor"),
    "numbers": (lambda: {"epoch": 1}, "contains no tensors"),
    "flat parameters": (lambda: {"_flat_param": torch.ones(9)}, "flattened and sharded by FSDP"),
    "sharded by ZeRO-3": (
        lambda: {"module": {name: torch.empty(0) for name in STATE}},
        r"sharded over several processes; gather them first",
    ),
}
EXTRAS = (False, True)
CONTAINERS = ("zip 2", "zip 4", "zip 5", "legacy 2", "legacy 3", "legacy 4")
# Wrapper x extras, each in one container and protocol, so that every value meets every other kind of value.
SHAPES = {
    f"{name}, extras={extra}, {CONTAINERS[(2 * index + extra) % len(CONTAINERS)]}": (
        make,
        extra,
        CONTAINERS[(2 * index + extra) % len(CONTAINERS)],
    )
    for index, (name, make) in enumerate(WRAPPERS.items())
    for extra in EXTRAS
}


def _write(value: Any, path: pathlib.Path, container: str = "zip 2") -> pathlib.Path:
    kind, protocol = container.split()
    torch.save(value, path, pickle_protocol=int(protocol), _use_new_zipfile_serialization=kind == "zip")
    return path


def _logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(images((32, 32)))


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 60


@pytest.mark.parametrize(
    ("make", "extra", "container"),
    [pytest.param(*case.values[0], id=case.id, marks=case.marks) for case in slow_except(SHAPES, *list(SHAPES)[::6])],
)
def test_training_files_load_with_equal_outputs(
    make: Callable[[], Any], extra: bool, container: str, tmp_path: pathlib.Path, recwarn: pytest.WarningsRecorder
) -> None:
    value = make()
    # In a flat file, values next to the tensors are those of other keys of the same dict.
    extras = _extras() if extra else {}
    source = _write({**extras, **value}, tmp_path / "x.pth", container)
    recwarn.clear()
    loaded = checkpoints.load(source)
    assert not recwarn.list
    assert loaded.model.config.num_classes == 5
    state = loaded.model.state_dict()
    assert set(state) == set(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert torch.equal(_logits(loaded.model), _logits(MODEL))
    assert all(note.isprintable() for note in loaded.origin.notes)
    assert len(set(loaded.origin.notes)) == len(loaded.origin.notes)


@pytest.mark.parametrize("name", REJECTED)
def test_other_files_are_rejected_in_one_sentence(name: str, tmp_path: pathlib.Path) -> None:
    make, message = REJECTED[name]
    source = _write(make(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(source)
    assert str(caught.value).isprintable()
    assert str(caught.value).count("x.pth") == 1


@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod.", "backbone.vit."])
def test_safetensors_with_prefixes(prefix: str, tmp_path: pathlib.Path) -> None:
    save_file(_prefixed(prefix), tmp_path / "x.safetensors")
    state = checkpoints.load(tmp_path / "x.safetensors").model.state_dict()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_float8_is_converted(tmp_path: pathlib.Path) -> None:
    halves = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in STATE.items()}
    save_file(halves, tmp_path / "x.safetensors")
    state = checkpoints.load(tmp_path / "x.safetensors").model.state_dict()
    assert all(torch.equal(state[name], halves[name].float()) for name in STATE)


@pytest.mark.parametrize("tree", ["student", "student.backbone", "models.0"])
def test_subtrees_of_pickles(tree: str, tmp_path: pathlib.Path) -> None:
    value = {"teacher": _prefixed("backbone."), "student": _prefixed("backbone.", OTHER), "models": [OTHER]}
    _write(value, tmp_path / "x.pth")
    state = checkpoints.load(f"{tmp_path}/x.pth:{tree}").model.state_dict()
    assert all(torch.equal(state[name], OTHER[name]) for name in STATE)
    with pytest.raises(CheckpointError, match="no subtree 'ema'; it has models, student, teacher"):
        checkpoints.load(f"{tmp_path}/x.pth:ema")
    with pytest.raises(
        CheckpointError, match=r"the file has 2 subtrees named 'backbone'; pass one of teacher\.backbone"
    ):
        checkpoints.load(f"{tmp_path}/x.pth:backbone")


def test_a_subtree_leaves_the_head_out(tmp_path: pathlib.Path) -> None:
    _write({"state_dict": _classifier("backbone.", "head.")}, tmp_path / "x.pth")
    assert checkpoints.load(f"{tmp_path}/x.pth:backbone").model.config.num_classes == 0


def test_ignored_parts_are_listed_once(tmp_path: pathlib.Path) -> None:
    _write({"state_dict": _prefixed("net."), **_extras()}, tmp_path / "x.pth")
    notes = checkpoints.load(tmp_path / "x.pth").origin.notes
    assert "weights under 'state_dict.net.'" in notes
    assert notes.count("ignored: optimizer (not model weights)") == 1
    assert notes.count("ignored: best_acc1 (not model weights)") == 1


def test_parts_of_pretraining_are_listed(tmp_path: pathlib.Path) -> None:
    parts = {"mask_token": torch.zeros(1, 1, 64), "net.decoder_pred": {"weight": torch.ones(3, 3)}}
    _write({"model": _prefixed("encoder."), **parts}, tmp_path / "x.pth")
    notes = checkpoints.load(tmp_path / "x.pth").origin.notes
    assert any("mask" in note for note in notes)
    assert "ignored: decoder_pred (a part of pre-training)" in notes
