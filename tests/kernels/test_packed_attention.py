"""The compiled attention that learns: its gradients against float64, and its place in torch and in the layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.evaluate.flops import FlopCounter
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


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def by_torch(qkv: Tensor, num_heads: int) -> Tensor:
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def gradient(function: object, qkv: Tensor, num_heads: int, dout: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    taken = qkv.to(dtype).clone().requires_grad_()
    out = function(taken, num_heads)  # type: ignore[operator]
    out.backward(dout.to(dtype))
    assert taken.grad is not None
    return out.detach(), taken.grad


def off(found: Tensor, wanted: Tensor) -> float:
    """The root mean square of the difference, as a share of that of what is wanted."""
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-6))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_are_as_near_to_the_truth_as_torchs(shape: tuple[int, int, int, int]) -> None:
    b, n, num_heads, width = shape
    qkv, dout = 1.5 * numbers(b, n, 3 * num_heads * width), numbers(b, n, num_heads * width, seed=1)
    truth = gradient(by_torch, qkv, num_heads, dout, torch.float64)
    ours = gradient(kernel.packed_attention, qkv, num_heads, dout, torch.bfloat16)
    theirs = gradient(by_torch, qkv, num_heads, dout, torch.bfloat16)
    assert off(ours[0], truth[0]) < max(0.006, 1.1 * off(theirs[0], truth[0]))
    for part in range(3):
        found, other, wanted = (each[1].chunk(3, dim=-1)[part] for each in (ours, theirs, truth))
        if float(wanted.norm()) > 1e-6:
            assert off(found, wanted) < max(0.006, 1.1 * off(other, wanted))
        else:
            assert float(found.abs().max()) < 1e-2


def test_the_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, dout = numbers(2, 50, 3 * 3 * 32), numbers(2, 50, 96, seed=1)
    alone = gradient(kernel.packed_attention, qkv, 3, dout, torch.bfloat16)
    for threads in (2, 4, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        again = gradient(kernel.packed_attention, qkv, 3, dout, torch.bfloat16)
        assert torch.equal(again[0], alone[0])
        assert torch.equal(again[1], alone[1])


def test_large_logits_have_finite_gradients() -> None:
    qkv, dout = 60 * numbers(1, 40, 3 * 32), numbers(1, 40, 32, seed=1)
    _, found = gradient(kernel.packed_attention, qkv, 1, dout, torch.bfloat16)
    assert bool(found.isfinite().all())


def test_a_gradient_that_is_not_dense() -> None:
    qkv, dout = numbers(2, 12, 3 * 32), numbers(12, 2, 32, seed=1).transpose(0, 1)
    assert torch.equal(
        gradient(kernel.packed_attention, qkv, 2, dout, torch.bfloat16)[1],
        gradient(kernel.packed_attention, qkv, 2, dout.contiguous(), torch.bfloat16)[1],
    )


def test_torch_finds_nothing_wrong_with_the_operations() -> None:
    qkv = numbers(1, 5, 3 * 32).requires_grad_()
    torch.library.opcheck(torch.ops.vitkit.packed_attention.default, (qkv, 2), rtol=0.02, atol=0.02,
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))  # fmt: skip


def test_what_it_does_not_take_is_refused() -> None:
    for qkv, num_heads in ((numbers(1, 4, 96).float(), 2), (numbers(1, 4, 96), 4), (numbers(1, 0, 96), 2)):
        with pytest.raises(ValueError, match="packed attention takes bfloat16 on a CPU"):
            kernel.packed_attention(qkv, num_heads)


def test_products_are_counted_as_torch_counts_its_own() -> None:
    qkv, dout = numbers(2, 9, 3 * 64), numbers(2, 9, 64, seed=1)
    totals = []
    for function in (kernel.packed_attention, by_torch):
        with FlopCounter() as count:
            gradient(function, qkv, 2, dout, torch.bfloat16)
        totals.append(count.total)
    assert totals[0] == totals[1] > 0


class Seen:
    """Counts the calls of the kernel by the layers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        monkeypatch.setattr("vitkit.layers.attention.packed_attention", self)
        monkeypatch.setattr(kernel.attention, "tiles", lambda: False)

    def __call__(self, qkv: Tensor, num_heads: int) -> Tensor:
        """One call."""
        self.count += 1
        return kernel.packed_attention(qkv, num_heads)


def test_a_layer_uses_it_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    seen = Seen(monkeypatch)
    x = torch.randn(2, 10, 64)
    layer = Attention(64, 2)
    exact = layer(x)
    assert seen.count == 0, "float32 is torch's"
    with torch.autocast("cpu", torch.bfloat16):
        near = layer(x)
        assert seen.count == 1
        layer(x, bias=torch.zeros(1, 2, 10, 10))
        Attention(64, 2, qk_norm_eps=1e-6)(x)
        Attention(64, 4, dropout=0.5)(x)
        Attention(48, 2)(torch.randn(2, 10, 48))
        assert seen.count == 1, "a bias, normalised queries, dropout and odd heads are torch's"
        Attention(64, 4, dropout=0.5).eval()(x)
        Attention(64, 2, qkv_bias="qv")(x)
    assert seen.count == 3
    assert float((near.float() - exact).detach().abs().max()) < 0.02
    monkeypatch.setattr(kernel.attention, "tiles", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert seen.count == 3, "a CPU with tiles has a faster one"


def test_a_layer_learns_the_same_by_either(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    Seen(monkeypatch)
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
        assert off(ours, theirs.double()) < 0.02


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch on its own kernel under vmap
def test_what_is_exported_or_transformed_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    layer, x = Attention(32, 2).bfloat16(), numbers(2, 6, 32)
    program = torch.export.export(layer, (x,))
    assert "packed_attention" not in program.graph_module.code
    torch.func.vmap(layer)(x[:, None])
    assert seen.count == 0
