"""The attention kernel against float64 for shapes, layouts, biases and threads, and its errors."""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit import models
from vitkit.inference import engine
from vitkit.inference.engine.blocks import attend, attention_backend
from vitkit.inference.engine.capabilities import Capabilities, _cpu
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


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = q.double() @ k.double().transpose(2, 3) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias.double()
    return (logits.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)


def close(result: Tensor, expected: Tensor) -> bool:
    """Whether results are close: weights and results have 8 significant bits, a rounding error of 0.4 %."""
    return bool(((result.double() - expected).abs() <= 0.008 * expected.abs() + 0.012).all())


@needs_kernels
@pytest.mark.parametrize("bias", ["none", "heads", "images", "keys"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_matches_float64(shape: tuple[int, ...], bias: str) -> None:
    b, h, m, n, width = shape
    q, k, v = heads(b, h, m, width), heads(b, h, n, width, seed=1), heads(b, h, n, width, seed=2)
    sizes = {"none": None, "heads": (h, m, n), "images": (b, 1, m, n), "keys": (b, 1, 1, n)}[bias]
    added = None if sizes is None else 2 * torch.randn(*sizes, generator=torch.Generator().manual_seed(3))
    result = attention.attention(q, k, v, added)
    assert result.shape == (b, m, h * width)
    assert close(result, reference(q, k, v, added))
    # The root mean square error is at most that of torch's own kernel.
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=None if added is None else added.bfloat16())
    if result.numel():
        error, torch_error = (
            float((each.double() - reference(q, k, v, added)).square().mean().sqrt())
            for each in (result, theirs.transpose(1, 2).flatten(2))
        )
        assert error <= 1.1 * torch_error + 1e-6


@needs_kernels
def test_views_of_one_projection_are_supported() -> None:
    qkv = heads(2, 29, 3, 4, 32)
    views = [qkv[:, :, part].transpose(1, 2) for part in range(3)]
    copies = [view.contiguous() for view in views]
    assert torch.equal(attention.attention(*views), attention.attention(*copies))


@needs_kernels
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (heads(2, 3, 67, 64, seed=seed) for seed in range(3))
    single = attention.attention(q, k, v)
    for threads in (2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(attention.attention(q, k, v), single)


@needs_kernels
def test_results_do_not_depend_on_the_batch() -> None:
    q, k, v = (heads(3, 2, 20, 32, seed=seed) for seed in range(3))
    batched = attention.attention(q, k, v)
    for index in range(3):
        assert torch.equal(attention.attention(q[index : index + 1], k[index : index + 1], v[index : index + 1])[0],
                           batched[index])  # fmt: skip


@needs_kernels
def test_extreme_logits_have_finite_results() -> None:
    q, k, v = (heads(1, 1, 20, 32, seed=seed) for seed in range(3))
    assert close(attention.attention(q * 100, k * 100, v), reference(q * 100, k * 100, v))
    mask = torch.zeros(20, 20)
    mask[:, 5:] = -torch.inf
    assert close(attention.attention(q, k, v, mask), reference(q, k, v, mask))
    low = torch.full((20, 20), -1e30)
    assert close(attention.attention(q, k, v, low), reference(q, k, v, low))


@needs_kernels
def test_unsupported_inputs_are_rejected() -> None:
    good = heads(1, 2, 4, 32)
    for q, k, v in (
        (good.float(), good, good),
        (good[..., :24], good[..., :24], good[..., :24]),
        (good.transpose(2, 3), good, good),
        (good, good, heads(1, 2, 5, 32)),
        (good, heads(1, 1, 4, 32), heads(1, 1, 4, 32)),
        (good, good[:, :, :0], good[:, :, :0]),
    ):
        with pytest.raises(ValueError, match="the attention kernel needs bfloat16 heads of matching shapes"):
            attention.attention(q, k, v)


@needs_kernels
@pytest.mark.parametrize("width", [24, 32])
def test_attend_falls_back_for_unsupported_inputs(width: int) -> None:
    q, k, v = (heads(2, 2, 9, width, seed=seed) for seed in range(3))
    assert close(attend(q, k, v, None, "kernel"), reference(q, k, v))


def test_the_way_is_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Capabilities("CPU", bfloat16=True, float16=False, int8=True, tiles=False, packs=True)
    large = Capabilities("CPU", bfloat16=True, float16=False, int8=True, tiles=True, packs=True)
    for there, way in ((True, "kernel"), (False, "products")):
        monkeypatch.setattr(attention, "available", lambda there=there: there)
        assert attention_backend(small, torch.bfloat16) == way
        assert attention_backend(large, torch.bfloat16) == "fused"
        assert attention_backend(small, torch.float32) == "fused"


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disables the kernels as VITKIT_KERNELS=0 does from the start of a process."""
    caches = (library.library, library.routine, attention.tiles, _cpu)
    monkeypatch.setenv("VITKIT_KERNELS", "0")
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_without_the_library_the_engine_falls_back(no_kernels: None) -> None:
    """As on a machine without a compiler: the kernel is not available, and models run with torch's operators."""
    assert not attention.available()
    model = models.build(models.preset("vit-ti/16", image_size=(32, 32), depth=1)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(engine.accelerate(model, precision="float32").model(images), model(images))
        assert engine.accelerate(model).model(images).isfinite().all()
    x = torch.zeros(1, 1, 1, 16).bfloat16()
    with pytest.raises(RuntimeError, match="kernel 'attention' is not available: it was not compiled"):
        attention.attention(x, x, x)


def test_a_library_with_another_interface_version_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    if library.library() is None:
        pytest.skip("needs a compiled library")
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    with pytest.warns(UserWarning, match="compiled from older sources"):
        assert library.library.__wrapped__() is None


@pytest.mark.parametrize("name", list(library.FUNCTIONS))
def test_a_library_that_lacks_a_function_is_not_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library from before a kernel was added would otherwise fail with AttributeError at the first use."""
    if library.library(name) is None:
        pytest.skip("needs a compiled library")
    monkeypatch.setitem(library.FUNCTIONS, name, (*library.FUNCTIONS[name], "added_later"))
    with pytest.warns(UserWarning, match="compiled from older sources") as warned:
        assert library.library.__wrapped__(name) is None
    (message,) = warned
    assert str(message.message).startswith(f"the C kernels in {name}.")
    assert "pip install -e ." in str(message.message)


def test_the_loader_checks_every_function_of_the_c_sources() -> None:
    """The table of functions names what the C sources of each library in pyproject.toml define."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    for extension in project["tool"]["setuptools"]["ext-modules"]:
        sources = "".join((root / source).read_text() for source in extension["sources"])
        defined = set(re.findall(r"^(?:int|void) vitkit_(\w+)\(", sources, re.MULTILINE))
        name = extension["name"].rpartition(".")[2]
        assert {*library.FUNCTIONS[name], "interface"} == defined


def test_the_libraries_are_compiled_if_there_is_a_compiler() -> None:
    """The extensions are optional: an error in a C file would otherwise go unnoticed."""
    import os
    import shutil

    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    allowed = os.environ.get("VITKIT_KERNELS")
    if allowed == "0":
        pytest.skip("VITKIT_KERNELS=0 disables the kernels")
    native = library.library()
    assert native is not None
    assert library.library("images") is not None
    # The CPU checks of the C code agree with torch; limits on oneDNN do not affect these kernels.
    assert bool(native.vitkit_attention_runs()) == torch.cpu._is_avx512_bf16_supported()
    assert bool(native.vitkit_quantize_runs()) == torch.cpu._is_avx512_supported()
    assert attention.available() == (bool(native.vitkit_attention_runs()) and allowed != "avx2")


@pytest.mark.parametrize(
    ("allowed", "expected"), [("0", []), ("avx2", ["resize"]), ("1", ["attention", "quantize", "resize"])]
)
def test_the_environment_variable_disables_kernels(
    allowed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiled:
        """A library that reports support for every kernel."""

        def __getattr__(self, name: str) -> Callable[[], int]:
            return lambda: 1

    monkeypatch.setenv("VITKIT_KERNELS", allowed)
    monkeypatch.setattr(library, "library", lambda _: None if allowed == "0" else Compiled())
    names = ("attention", "quantize", "resize")
    assert [name for name in names if library.routine.__wrapped__(name, name) is not None] == expected
