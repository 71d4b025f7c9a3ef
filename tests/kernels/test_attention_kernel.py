"""The compiled attention against float64, over shapes, layouts, biases, threads, and what it must refuse."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.inference.engine.blocks import attend, attention_backend
from vitkit.inference.engine.capabilities import Capabilities
from vitkit.kernels import attention, library

needs_kernels = pytest.mark.needs("attention kernel")
SHAPES = [
    (1, 1, 1, 1, 16),
    (1, 2, 5, 33, 32),
    (2, 3, 197, 197, 64),
    (2, 4, 10, 577, 80),
    (3, 2, 50, 7, 96),
    (1, 3, 7, 48, 112),
    (0, 2, 4, 4, 16),
]


def heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def true(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = q.double() @ k.double().transpose(2, 3) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias.double()
    return (logits.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Weights and results are rounded to 8 bits: a rounding of a value of size one is 0.4 %."""
    return bool(((found.double() - wanted).abs() <= 0.008 * wanted.abs() + 0.012).all())


@needs_kernels
@pytest.mark.parametrize("bias", ["none", "heads", "pictures", "keys"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_attention(shape: tuple[int, ...], bias: str) -> None:
    b, h, m, n, width = shape
    q, k, v = heads(b, h, m, width), heads(b, h, n, width, seed=1), heads(b, h, n, width, seed=2)
    sizes = {"none": None, "heads": (h, m, n), "pictures": (b, 1, m, n), "keys": (b, 1, 1, n)}[bias]
    added = None if sizes is None else 2 * torch.randn(*sizes, generator=torch.Generator().manual_seed(3))
    found = attention.attention(q, k, v, added)
    assert found.shape == (b, m, h * width)
    assert near(found, true(q, k, v, added))
    # No further from the truth than torch's own kernel, on the whole.
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=None if added is None else added.bfloat16())
    if found.numel():
        off, theirs_off = (
            float((each.double() - true(q, k, v, added)).square().mean().sqrt())
            for each in (found, theirs.transpose(1, 2).flatten(2))
        )
        assert off <= 1.1 * theirs_off + 1e-6


@needs_kernels
def test_views_of_one_projection_are_read_where_they_are() -> None:
    qkv = heads(2, 29, 3, 4, 32)
    views = [qkv[:, :, part].transpose(1, 2) for part in range(3)]
    apart = [view.contiguous() for view in views]
    assert torch.equal(attention.attention(*views), attention.attention(*apart))


@needs_kernels
def test_the_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (heads(2, 3, 67, 64, seed=seed) for seed in range(3))
    alone = attention.attention(q, k, v)
    for threads in (2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(attention.attention(q, k, v), alone)


@needs_kernels
def test_a_picture_alone_is_the_picture_in_a_batch() -> None:
    q, k, v = (heads(3, 2, 20, 32, seed=seed) for seed in range(3))
    together = attention.attention(q, k, v)
    for index in range(3):
        assert torch.equal(attention.attention(q[index : index + 1], k[index : index + 1], v[index : index + 1])[0],
                           together[index])  # fmt: skip


@needs_kernels
def test_extremes_stay_numbers() -> None:
    q, k, v = (heads(1, 1, 20, 32, seed=seed) for seed in range(3))
    assert near(attention.attention(q * 100, k * 100, v), true(q * 100, k * 100, v))
    hidden = torch.zeros(20, 20)
    hidden[:, 5:] = -torch.inf
    assert near(attention.attention(q, k, v, hidden), true(q, k, v, hidden))
    low = torch.full((20, 20), -1e30)
    assert near(attention.attention(q, k, v, low), true(q, k, v, low))


@needs_kernels
def test_what_it_does_not_take_is_refused() -> None:
    good = heads(1, 2, 4, 32)
    for q, k, v in (
        (good.float(), good, good),
        (good[..., :24], good[..., :24], good[..., :24]),
        (good.transpose(2, 3), good, good),
        (good, good, heads(1, 2, 5, 32)),
        (good, heads(1, 1, 4, 32), heads(1, 1, 4, 32)),
        (good, good[:, :, :0], good[:, :, :0]),
    ):
        with pytest.raises(ValueError, match="attention takes bfloat16 heads"):
            attention.attention(q, k, v)


@needs_kernels
@pytest.mark.parametrize("width", [24, 32])
def test_attend_uses_another_way_for_what_it_does_not_take(width: int) -> None:
    q, k, v = (heads(2, 2, 9, width, seed=seed) for seed in range(3))
    assert near(attend(q, k, v, None, "kernel"), true(q, k, v))


def test_the_way_is_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Capabilities("CPU", bfloat16=True, float16=False, int8=True, tiles=False, packs=True)
    large = Capabilities("CPU", bfloat16=True, float16=False, int8=True, tiles=True, packs=True)
    for there, way in ((True, "kernel"), (False, "products")):
        monkeypatch.setattr(attention, "available", lambda there=there: there)
        assert attention_backend(small, torch.bfloat16) == way
        assert attention_backend(large, torch.bfloat16) == "fused"
        assert attention_backend(small, torch.float32) == "fused"


def test_without_the_library_nothing_else_changes() -> None:
    """As where there was no compiler: vitkit says so when asked, and classifies in another way."""
    code = (
        "import torch; from vitkit import models; from vitkit.inference import engine;"
        "from vitkit.kernels import attention;"
        "assert not attention.available();"
        "model = models.build(models.preset('vit-ti/16', image_size=(32, 32))).eval();"
        "made = engine.accelerate(model); print(made.precision);"
        "x = torch.zeros(1, 1, 1, 16).bfloat16();\n"
        "try: attention.attention(x, x, x)\nexcept RuntimeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={"VITKIT_KERNELS": "0"}
    )
    assert done.returncode == 0, done.stderr
    assert "not compiled here" in done.stdout


def test_a_library_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    assert library.library.__wrapped__() is None


def test_it_was_compiled_here_if_it_could_be() -> None:
    """A mistake in a C file must not hide behind `optional`."""
    import os
    import shutil

    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    allowed = os.environ.get("VITKIT_KERNELS")
    if allowed == "0":
        pytest.skip("VITKIT_KERNELS=0 disables the kernels")
    native = library.library()
    assert native is not None
    assert library.library("pictures") is not None
    # CPUID answers in the C code as it does in torch; a limit on oneDNN is none on these kernels.
    assert bool(native.vitkit_attention_runs()) == torch.cpu._is_avx512_bf16_supported()
    assert bool(native.vitkit_quantise_runs()) == torch.cpu._is_avx512_supported()
    assert attention.available() == (bool(native.vitkit_attention_runs()) and allowed != "avx2")


@pytest.mark.parametrize(
    ("allowed", "left"), [("0", []), ("avx2", ["resize"]), ("1", ["attention", "quantise", "resize"])]
)
def test_the_kernels_can_be_limited(allowed: str, left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiled:
        """A library whose CPU runs everything."""

        def __getattr__(self, name: str) -> Callable[[], int]:
            return lambda: 1

    monkeypatch.setenv("VITKIT_KERNELS", allowed)
    monkeypatch.setattr(library, "library", lambda _: None if allowed == "0" else Compiled())
    names = ("attention", "quantise", "resize")
    assert [name for name in names if library.routine.__wrapped__(name, name) is not None] == left
