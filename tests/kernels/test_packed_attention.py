"""The packed attention kernel: gradients against float64, and its use by torch and by the layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.evaluation.flops import FlopCounter
from vitkit.kernels import packed_attention as kernel
from vitkit.layers.attention import Attention

pytestmark = pytest.mark.needs("attention kernel")
SHAPES = [
    (1, 1, 1, 16),
    (2, 7, 3, 32),
    (1, 96, 1, 64),
    (1, 97, 2, 32),
    (2, 197, 3, 64),
    (1, 200, 2, 80),
    (1, 401, 1, 16),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def by_torch(qkv: Tensor, num_heads: int) -> Tensor:
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def gradient(function: object, qkv: Tensor, num_heads: int, dout: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = qkv.to(dtype).clone().requires_grad_()
    out = function(x, num_heads)  # type: ignore[operator]
    out.backward(dout.to(dtype))
    assert x.grad is not None
    return out.detach(), x.grad


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Returns the norm of the difference relative to the norm of the expected tensor."""
    return float((result.double() - expected).norm() / expected.norm().clamp(min=1e-6))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_are_as_accurate_as_torch(shape: tuple[int, int, int, int]) -> None:
    b, n, num_heads, width = shape
    qkv, dout = 1.5 * random(b, n, 3 * num_heads * width), random(b, n, num_heads * width, seed=1)
    reference = gradient(by_torch, qkv, num_heads, dout, torch.float64)
    ours = gradient(kernel.packed_attention, qkv, num_heads, dout, torch.bfloat16)
    theirs = gradient(by_torch, qkv, num_heads, dout, torch.bfloat16)
    assert relative_error(ours[0], reference[0]) < max(0.006, 1.1 * relative_error(theirs[0], reference[0]))
    for part in range(3):
        result, other, expected = (each[1].chunk(3, dim=-1)[part] for each in (ours, theirs, reference))
        if float(expected.norm()) > 1e-6:
            assert relative_error(result, expected) < max(0.006, 1.1 * relative_error(other, expected))
        else:
            assert float(result.abs().max()) < 1e-2


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, dout = random(2, 50, 3 * 3 * 32), random(2, 50, 96, seed=1)
    single = gradient(kernel.packed_attention, qkv, 3, dout, torch.bfloat16)
    for threads in (2, 4, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        again = gradient(kernel.packed_attention, qkv, 3, dout, torch.bfloat16)
        assert torch.equal(again[0], single[0])
        assert torch.equal(again[1], single[1])


def test_large_logits_have_finite_gradients() -> None:
    qkv, dout = 60 * random(1, 40, 3 * 32), random(1, 40, 32, seed=1)
    _, result = gradient(kernel.packed_attention, qkv, 1, dout, torch.bfloat16)
    assert bool(result.isfinite().all())


def test_a_non_contiguous_gradient() -> None:
    qkv, dout = random(2, 12, 3 * 32), random(12, 2, 32, seed=1).transpose(0, 1)
    assert torch.equal(
        gradient(kernel.packed_attention, qkv, 2, dout, torch.bfloat16)[1],
        gradient(kernel.packed_attention, qkv, 2, dout.contiguous(), torch.bfloat16)[1],
    )


def test_the_operators_pass_opcheck() -> None:
    qkv = random(1, 5, 3 * 32).requires_grad_()
    torch.library.opcheck(torch.ops.vitkit.packed_attention.default, (qkv, 2), rtol=0.02, atol=0.02,
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))  # fmt: skip


def test_unsupported_inputs_are_rejected() -> None:
    for qkv, num_heads in ((random(1, 4, 96).float(), 2), (random(1, 4, 96), 4), (random(1, 0, 96), 2)):
        with pytest.raises(ValueError, match="the packed attention kernel needs a 3-d bfloat16 tensor on a CPU"):
            kernel.packed_attention(qkv, num_heads)


def test_flops_are_counted_as_for_torchs_attention() -> None:
    qkv, dout = random(2, 9, 3 * 64), random(2, 9, 64, seed=1)
    totals = []
    for function in (kernel.packed_attention, by_torch):
        with FlopCounter() as count:
            gradient(function, qkv, 2, dout, torch.bfloat16)
        totals.append(count.total)
    assert totals[0] == totals[1] > 0


class CallCounter:
    """Counts calls of the kernel by the layers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        monkeypatch.setattr("vitkit.layers.attention.packed_attention", self)
        monkeypatch.setattr(kernel.attention, "tiles", lambda: False)

    def __call__(self, qkv: Tensor, num_heads: int) -> Tensor:
        """Counts one call and forwards it."""
        self.count += 1
        return kernel.packed_attention(qkv, num_heads)


def test_layers_use_the_kernel_if_it_supports_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calls = CallCounter(monkeypatch)
    x = torch.randn(2, 10, 64)
    layer = Attention(64, 2)
    exact = layer(x)
    assert calls.count == 0, "float32 uses torch's attention"
    with torch.autocast("cpu", torch.bfloat16):
        near = layer(x)
        assert calls.count == 1
        layer(x, bias=torch.zeros(1, 2, 10, 10))
        Attention(64, 2, qk_norm_eps=1e-6)(x)
        Attention(64, 4, dropout=0.5)(x)
        Attention(48, 2)(torch.randn(2, 10, 48))
        assert calls.count == 1, "a bias, normalized queries, dropout and odd heads use torch's attention"
        Attention(64, 4, dropout=0.5).eval()(x)
        Attention(64, 2, qkv_bias="qv")(x)
    assert calls.count == 3
    assert float((near.float() - exact).detach().abs().max()) < 0.02
    monkeypatch.setattr(kernel.attention, "tiles", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert calls.count == 3, "torch's attention is faster on a CPU with AMX"


def test_layers_have_the_same_gradients_with_and_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    CallCounter(monkeypatch)
    x = torch.randn(2, 33, 64)
    gradients = []
    for tiles in (False, True):
        torch.manual_seed(1)
        layer = Attention(64, 2)
        monkeypatch.setattr(kernel.attention, "tiles", lambda tiles=tiles: tiles)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().mean().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs.double()) < 0.02


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch on its own kernel under vmap
def test_exported_and_transformed_layers_use_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallCounter(monkeypatch)
    layer, x = Attention(32, 2).bfloat16(), random(2, 6, 32)
    program = torch.export.export(layer, (x,))
    assert "packed_attention" not in program.graph_module.code
    torch.func.vmap(layer)(x[:, None])
    assert calls.count == 0
