"""Layers in 8-bit floating numbers, and networks made by torch's compiler: against what they round to, and float32."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.inference import Predictor, engine
from vitkit.inference.engine.dense import LARGEST, TYPE, Float8Dense, fits, multiplied, rounded
from vitkit.inference.engine.machine import Machine, machine
from vitkit.inference.engine.path import Path, compiled, paths

# What this CPU would be if it multiplied them as a GPU does: torch can do it here too, slowly.
LIKE_A_GPU = dataclasses.replace(machine(torch.device("cpu")), packs=False, int8=False, float8=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies(device: torch.device) -> bool:
    """Whether this torch multiplies float8 on that device: on CPUs 2.11 does not, and GPUs need 8.9 or more."""
    row = rounded(torch.ones(16, 16, device=device))
    try:
        multiplied(row, row, torch.bfloat16)
    except (NotImplementedError, RuntimeError):
        return False
    return True


needs_float8 = pytest.mark.skipif(
    not multiplies(DEVICE), reason=f"torch {torch.__version__} does not multiply float8 on this {DEVICE.type}"
)


def small() -> models.Backbone:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=64, num_classes=7, width=64, depth=2)).eval()
    nn.init.normal_(model.head.weight)
    return model


def near(found: Tensor, exact: Tensor, share: float) -> None:
    off = float((found.float() - exact).square().mean().sqrt() / exact.std())
    assert 0 < off < share


def test_rows_use_the_whole_range() -> None:
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 7, 1e4, 0])[:, None]
    whole, scale = rounded(x)
    assert whole.dtype == TYPE
    assert whole.float().abs().amax(dim=1).tolist() == [LARGEST] * 4 + [0.0]
    # Four bits of a number, the hidden one included, and what is far below the largest of its row.
    torch.testing.assert_close(whole.float() * scale, x, rtol=1 / 16, atol=0.0)


@needs_float8
@pytest.mark.parametrize("act", ["", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_exact_on_what_it_rounds_to(bias: bool, act: str) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=bias).to(DEVICE), torch.randn(2, 7, 64).bfloat16().to(DEVICE)
    made = Float8Dense(linear.weight, linear.bias, dtype=torch.bfloat16, act=act)
    (left, s), (right, t) = rounded(x.flatten(0, 1)), rounded(linear.weight.detach())
    with torch.inference_mode():
        expected = F.linear(
            left.double() * s, right.double() * t, None if linear.bias is None else linear.bias.double()
        )
        expected = (F.gelu(expected) if act else expected).unflatten(0, (2, 7)).float()
        torch.testing.assert_close(made(x).float(), expected, atol=0.02, rtol=0.02)
        if not act:
            other = torch.randn(2, 7, 48).bfloat16().to(DEVICE)
            torch.testing.assert_close(made(x, residual=other).float(), expected + other, atol=0.03, rtol=0.02)
            torch.testing.assert_close(made(x, factor=other).float(), expected * other, atol=0.05, rtol=0.05)


def test_float8_is_for_whom_has_it() -> None:
    assert fits(torch.empty(32, 64))
    assert not fits(torch.empty(32, 60))
    assert paths("float8", LIKE_A_GPU, small()) == [Path("float8", True, "float8 was asked for")]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"float8 needs a GPU .* here is a"):
            Predictor(small(), Processor.squash(64), precision="float8", device="cpu").statement  # noqa: B018
    automatic = paths("auto", LIKE_A_GPU, models.build(models.preset("vit-ti/16"), initialise=False))
    assert "float8" not in {path.precision for path in automatic}


@needs_float8
def test_a_whole_network_in_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "machine", lambda _: LIKE_A_GPU)
    model = small().to(DEVICE)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    made = engine.accelerate(model, precision="float8")
    assert made.statement.startswith("float8")
    kinds = [name.rpartition(".")[2] for name, each in made.model.named_modules() if isinstance(each, Float8Dense)]
    assert sorted(set(kinds)) == ["fc1", "fc2", "key_value", "proj", "qkv", "query"]
    with torch.inference_mode():
        near(made.model(images), model(images), 0.25)
    with pytest.raises(ValueError, match="no dense layers"):
        engine.accelerate(models.build(models.family("resnet").TINY).eval(), precision="float8")


# torch's compiler uses it itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_that_is_not_full_is_filled_up(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def compiler(run: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options["dynamic"] is False

        def spied(images: Tensor) -> Any:
            seen.append((images.shape[0], images.is_inference()))
            return run(images)

        return spied

    monkeypatch.setattr(torch, "compile", compiler)
    model, images = small(), torch.randn(7, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    made = engine.accelerate(model, precision=precision, compiled=3)
    assert made.statement.startswith(f"{precision}, compiled: ")
    with torch.inference_mode():
        exact, found = model(images), made.model(images)
        torch.testing.assert_close(made.model(images[6:]), found[6:])
        assert made.model(images[:0]).shape == (0, 7)
    assert float((found.float() - exact).abs().max()) < (0.05 if precision == "bfloat16" else 1e-6) * exact.std() + 1e-6
    # One size and one kind of tensor: it is compiled once.
    assert set(seen) == {(3, True)}


SCRIPT = """
import importlib, warnings
import numpy as np, torch
from vitkit import models
from vitkit.inference import engine
from vitkit.data.processor import Processor
from vitkit.inference import Predictor
warnings.simplefilter("error")
counters = importlib.import_module("torch._dynamo.utils").counters
torch.manual_seed(0)
model = models.build(models.preset("vit-mu/16", image_size=64, num_classes=7, width=64, depth=2)).eval()
torch.nn.init.normal_(model.head.weight)
photos = [np.random.default_rng(i).integers(0, 256, (70, 70, 3), dtype=np.uint8) for i in range(5)]
exact = np.stack([each.output for each in Predictor(model, Processor.squash(64), precision="float32").logits(photos)])
for precision, off in (("float32", 1e-5), ("bfloat16", 0.1)):
    counters.clear()
    fast = Predictor(model, Processor.squash(64), precision=precision, batch_size=2, compile=True)
    found = np.stack([each.output for each in fast.logits(photos)])
    assert np.abs(found - exact).max() < off * exact.std(), np.abs(found - exact).max() / exact.std()
    assert not np.array_equal(found, exact)
    assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
    assert not counters["graph_break"], counters["graph_break"]
"""


@pytest.mark.slow
def test_torchs_compiler_sees_one_graph() -> None:
    """In a process of its own: the shape checks of the tests are more than the compiler can see through."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_compiled_is_refused() -> None:
    packs = Machine("machine", bfloat16=True, float16=False, int8=True, packs=True)
    ways = [Path("bfloat16", True, "a"), Path("float32", True, "b"), Path("float32", False, "b")]
    assert [(path.precision, path.fused, path.compiled) for path in compiled(ways, packs)] == [
        ("bfloat16", False, True),
        ("float32", False, True),
    ]
    with pytest.raises(ValueError, match="choose int8 or compile"):
        compiled([Path("int8", True, "asked for")], packs)
    with pytest.raises(ValueError, match="merging tokens is not for"):
        engine.accelerate(small(), precision="float32", merge=2, compiled=4)
