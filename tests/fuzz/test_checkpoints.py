"""Fuzzing of the checkpoint readers: mutated bytes, tensors and configs load as a model or raise `CheckpointError`.

A short run is part of the tests. With VITKIT_FUZZ_SECONDS (`make fuzz`), a second test runs that long with new seeds;
it prints the failing seed, and `write_mutated(seed, folder)` writes the checkpoint. Add findings to
tests/checkpoints/hostile.py.
"""

import io
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

LEAK = re.compile(r"(?<!\d)0x[0-9a-f]{6,}|Traceback|<ast\.|object at")
SECONDS = float(os.environ.get("VITKIT_FUZZ_SECONDS", "0"))
#: Maximum CPU time in seconds for one small file, many times the usual.
MAX_SECONDS = 5.0
TINY = Config(
    image_size=(8, 8), patch_size=(4, 4), width=8, depth=2, num_heads=2, mlp_width=12, num_classes=3, norm_eps=1e-6
)
Files = dict[str, bytes]


def valid_checkpoints(tmp: Path) -> list[Files]:
    """Return the files of valid checkpoints of every format: folders, archives and pickles."""
    from dataclasses import replace

    google = replace(TINY, activation="gelu_tanh")
    bare = replace(google, class_token=False, pool="map", position_tokens="patches")
    cases = [(TINY, "huggingface"), (TINY, "timm"), (TINY, "torchvision"), (TINY, "vitkit"), (google, "npz")]
    result = []
    for index, (config, to) in enumerate([*cases, (bare, "big_vision")]):
        checkpoint = Checkpoint(model=models.build(config), processor=Processor.squash(8), labels=("a", "b", "c"))
        target = tmp / f"{index}"
        path = target / {"npz": "x.npz", "big_vision": "x.npz", "torchvision": "x.pth"}.get(to, "")
        checkpoints.save_checked(checkpoint, path, to=to, lossy=True)
        result.append({file.name: file.read_bytes() for file in target.iterdir()})
    return result


SEEDS: list[Files] = []


@pytest.fixture(scope="session", autouse=True)
def _seeds(tmp_path_factory: pytest.TempPathFactory) -> None:
    SEEDS.extend(valid_checkpoints(tmp_path_factory.mktemp("seeds")))


def _bytes(random: np.random.Generator, data: bytes) -> bytes:
    """Change bytes; half of the time near the start (headers) or the end (directory of zip files)."""
    changed = bytearray(data)
    if not changed:
        return data
    span = len(changed) if random.random() < 0.5 else min(400, len(changed))
    at = int(random.integers(span))
    at = len(changed) - 1 - at if random.random() < 0.3 else at
    kind = int(random.integers(6))
    if kind == 0:
        changed[at] ^= 1 << int(random.integers(8))
    elif kind == 1:
        width = int(random.choice([1, 2, 4, 8]))
        changed[at : at + width] = int(random.choice([0, 1, 127, 128, 255])).to_bytes(1, "little") * width
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + 1 + int(random.integers(64))]
    elif kind == 4:
        changed[at:at] = changed[at : at + 64] * int(random.integers(1, 5))
    else:
        digits = [index for index, byte in enumerate(changed[:2000]) if 48 <= byte < 58]
        if digits:
            changed[int(random.choice(digits))] = int(random.integers(48, 58))
    return bytes(changed)


def _value(random: np.random.Generator, depth: int = 0) -> Any:
    """Return a JSON value that is likely to break a config."""
    options: list[Callable[[], Any]] = [
        lambda: int(random.choice([-1, 0, 1, 2, 3, 7, 8, 16, 2**31, 2**63, 10**25])),
        lambda: float(random.choice([-0.5, 0.0, 0.5, 1e-12, 1e300])),
        lambda: bool(random.integers(2)),
        lambda: None,
        lambda: str(random.choice(["", "a", "gelu", "map", "vit", "none", "../x", "token", "\0", "a\nb", "9" * 50])),
        lambda: [_value(random, depth + 1) for _ in range(int(random.integers(4)))] if depth < 3 else [],
        lambda: {str(random.choice(["0", "1", "height", "x"])): _value(random, depth + 1)} if depth < 3 else {},
    ]
    return options[int(random.integers(len(options)))]()


def _json(random: np.random.Generator, data: bytes) -> bytes:
    """Change or remove one value of a config."""
    value = json.loads(data)
    node = value
    while isinstance(node, dict) and node:
        key = str(random.choice(sorted(node)))
        if isinstance(node[key], dict) and node[key] and random.random() < 0.7:
            node = node[key]
            continue
        if random.random() < 0.15:
            del node[key]
        else:
            node[key] = _value(random)
        break
    return json.dumps(value).encode()


def _shape(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, ...]:
    changed = list(shape)
    kind = int(random.integers(4))
    if kind == 0 and changed:
        changed[int(random.integers(len(changed)))] = int(random.choice([0, 1, 2, 3, 5, 8, 24]))
    elif kind == 1 and changed:
        del changed[int(random.integers(len(changed)))]
    elif kind == 2:
        changed.insert(int(random.integers(len(changed) + 1)), int(random.choice([0, 1, 2])))
    else:
        changed = changed[::-1]
    return tuple(changed)


def _tensors(random: np.random.Generator, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove, rename, reshape, cast or add one tensor; the file format stays valid."""
    names = sorted(tensors)
    name = str(random.choice(names))
    changed = dict(tensors)
    array = changed.pop(name)
    kind = int(random.integers(5))
    if kind == 0:
        changed[re.sub(r"\d", lambda _: str(random.integers(10)), name, count=1)] = array
    elif kind == 1:
        changed[name] = np.zeros(_shape(random, array.shape), array.dtype)
    elif kind == 2:
        changed[name] = array.astype(random.choice(["int32", "float16", "float64", "bool"]))
    elif kind == 3:
        changed[name] = array
        prefixes = [
            "model.",
            "vit.",
            "params/",
            "blocks.99999.norm1.weight",
            "head.weight",
            "reg_token",
            "pos_embed",
            "cls",
        ]
        changed[str(random.choice(prefixes)) + str(random.choice(["", name]))] = array
    return changed


def _rewritten(random: np.random.Generator, name: str, data: bytes) -> bytes:
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data)) as arrays:
            changed = _tensors(random, dict(arrays))
        out = io.BytesIO()
        np.savez(out, **changed)
        return out.getvalue()
    if name.endswith(".pth"):
        state = torch.load(io.BytesIO(data), weights_only=True)
        changed = _tensors(random, {key: value.numpy() for key, value in state.items()})
        out = io.BytesIO()
        torch.save({key: torch.from_numpy(value) for key, value in changed.items()}, out)
        return out.getvalue()
    from safetensors.numpy import load

    changed = _tensors(random, load(data))
    return save({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in changed.items()})


def write_mutated(seed: int, folder: Path) -> Path:
    """Write the mutated checkpoint of a seed to the folder; return the path to load."""
    random = np.random.default_rng(seed)
    files = dict(SEEDS[int(random.integers(len(SEEDS)))])
    for _ in range(int(random.integers(1, 4))):
        name = str(random.choice(sorted(files)))
        kind = random.random()
        if name.endswith(".json") and kind < 0.8:
            try:
                files[name] = _json(random, files[name])
            except ValueError:  # not JSON any more after a change of its bytes
                files[name] = _bytes(random, files[name])
        elif kind < 0.5:
            files[name] = _bytes(random, files[name])
        else:
            try:
                files[name] = _rewritten(random, name, files[name])
            except Exception:  # already broken by a change of its bytes
                files[name] = _bytes(random, files[name])
        if random.random() < 0.05 and len(files) > 1:
            del files[str(random.choice(sorted(files)))]
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def check(source: Path) -> str:
    """Check for a working model or a one-line error, no warning, bounded time; return "ok" or the message."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = checkpoints.load(source)
        except CheckpointError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 2000
            assert not LEAK.search(message), message
            return message
    config = loaded.model.config
    assert all(not tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers()))
    assert len(loaded.labels) == config.num_classes
    if max(config.image_size) <= 256:
        with torch.no_grad():
            loaded.model(torch.zeros(1, config.channels, *config.image_size))
    assert time.process_time() - start < MAX_SECONDS
    return "ok"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**63))
def test_changed_checkpoints(seed: int, tmp_path: Path) -> None:
    check(write_mutated(seed, tmp_path))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".safetensors", ".npz", ".pth"]), data=st.binary(max_size=400))
def test_random_bytes(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    assert check(path) != "ok"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "hidden_size",
        "num_hidden_layers",
        "image_size",
        "patch_size",
        "id2label",
        "hidden_act",
        "architectures",
        "vitkit",
        "model_args",
        "pretrained_cfg",
        "architecture",
        "label_names",
        "model",
        "labels",
        "layer_norm_eps",
        "num_classes",
        "global_pool",
        "model_type",
    ]
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from([0, 1, 3]), changes=st.dictionaries(KEYS, JSON, max_size=3))
def test_configs(which: int, changes: dict[str, Any], tmp_path: Path) -> None:
    for name, data in SEEDS[which].items():
        (tmp_path / name).write_bytes(data)
    config = json.loads(SEEDS[which]["config.json"])
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    check(tmp_path)


@pytest.mark.slow
def test_seeds_reach_models_and_errors(tmp_path: Path) -> None:
    """Some mutated checkpoints are still valid, and some are not."""
    outcomes = [check(write_mutated(seed, tmp_path)) for seed in range(250)]
    assert outcomes.count("ok") > 12
    for message in (
        "missing",
        "unknown",
        "of the wrong shape",
        "config.json",
        "bytes",
        "damaged",
        "not floating-point",
    ):
        assert any(message in outcome for outcome in outcomes), message


@pytest.mark.skipif(not SECONDS, reason="set VITKIT_FUZZ_SECONDS, as `make fuzz` does")
def test_changed_checkpoints_for_long(tmp_path: Path) -> None:
    seed, end = time.time_ns(), time.monotonic() + SECONDS
    count = 0
    while time.monotonic() < end:
        try:
            check(write_mutated(seed + count, tmp_path))
        except Exception:
            print(f"write_mutated({seed + count}, folder) of tests/fuzz/test_checkpoints.py fails")
            raise
        count += 1
    print(f"{count} changed checkpoints")
