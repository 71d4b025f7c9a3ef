"""The quantize kernel against torch's operations, with and without a LayerNorm, and its errors."""

import pytest
import torch
from torch import Tensor, nn

from vitkit.inference.engine.quantization import QuantizedDense, QuantizingNorm, Range, quantizing
from vitkit.kernels import quantize

needs_kernels = pytest.mark.needs("quantize kernel")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def by_torch(x: Tensor, scale: float, zero: int) -> Tensor:
    return x.float().mul(1 / scale).add_(zero + 0.5).clamp_(0, 255).to(torch.uint8)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 7, 64), (5, 1), (3, 17), (1, 250), (0, 16), (2, 0)], ids=str)
def test_it_rounds_as_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype)
    for scale, zero in ((0.02, 128), (0.0313, 0), (0.5, 3)):
        assert torch.equal(quantize.quantize(x, scale, zero), by_torch(x, scale, zero))


@needs_kernels
def test_clamping_and_views() -> None:
    x = torch.tensor([-1e9, -1.0, 0.0, 1.0, 1e9, torch.inf, -torch.inf])
    assert quantize.quantize(x, 0.1, 10).tolist() == [0, 0, 10, 20, 255, 255, 0]
    x = random(6, 8, 20)
    assert torch.equal(quantize.quantize(x[:, ::2, 3:], 0.05, 99), by_torch(x[:, ::2, 3:], 0.05, 99))


@needs_kernels
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [16, 31, 192, 770])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantization_after_a_layer_norm(width: int, dtype: torch.dtype, bias: bool) -> None:
    norm = nn.LayerNorm(width, eps=1e-6, bias=bias).requires_grad_(False)
    for number, parameter in enumerate(norm.parameters()):
        parameter.copy_(1 - number + 0.3 * random(width))
    x = random(4, 9, width, dtype=dtype) + 5
    scale, zero = 0.04, 120
    exact = nn.functional.layer_norm(
        x.double(), (width,), norm.weight.double(), None if norm.bias is None else norm.bias.double(), 1e-6
    )
    result, expected = quantize.quantize(x, scale, zero, norm).double(), (exact / scale + zero).clamp(0, 255)
    # Half a step for rounding, plus float32 errors.
    assert float((result - expected).abs().max()) < 0.502


@needs_kernels
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, norm = random(13, 40), nn.LayerNorm(40)
    single = quantize.quantize(x, 0.05, 90, norm)
    for threads in (2, 5, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(quantize.quantize(x, 0.05, 90, norm), single)


@needs_kernels
def test_unsupported_inputs_are_rejected() -> None:
    with pytest.raises(ValueError, match="needs a float32 or bfloat16 tensor on a CPU"):
        quantize.quantize(random(2, 3).double(), 1.0, 0)
    for norm in (nn.LayerNorm(4), nn.LayerNorm(3).bfloat16(), nn.LayerNorm(3, elementwise_affine=False)):
        with pytest.raises(ValueError, match="a float32 LayerNorm over 3 channels"):
            quantize.quantize(random(2, 3), 1.0, 0, norm)


def test_a_range_rounds_the_same_with_and_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(5, 33)
    here = Range(0.03, 77).quantize(x)
    monkeypatch.setattr(quantize, "available", lambda: False)
    assert torch.equal(Range(0.03, 77).quantize(x), here)
    assert torch.equal(Range(0.03, 77).quantize(x.double()), here)


@needs_kernels
@pytest.mark.needs("int8")
def test_a_norm_quantizes_only_if_all_following_layers_use_the_same_range() -> None:
    one, two = (QuantizedDense(random(8, 16), None, taken=Range(scale, 5), dtype=torch.float32) for scale in (1, 2))
    norm, identity = nn.LayerNorm(16), nn.Identity()
    assert isinstance(quantizing(norm, one), QuantizingNorm)
    assert isinstance(quantizing(norm, one, one), QuantizingNorm)
    assert quantizing(norm, one, two) is norm
    assert quantizing(norm, one, nn.Linear(16, 8)) is norm
    assert quantizing(identity, one) is identity
    assert quantizing(norm.bfloat16(), one) is norm
