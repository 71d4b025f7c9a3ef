"""Capabilities of the CPU: from CPUID, from the limits of oneDNN, and compared with products that run."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from vitkit import models
from vitkit.inference.engine.capabilities import Capabilities, can_pack, capabilities
from vitkit.inference.engine.dense import FUSED, PLAIN, Dense
from vitkit.inference.engine.path import paths

CPU = torch.device("cpu")
cpu_module = sys.modules[Capabilities.__module__]


@pytest.mark.needs("packs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_can_pack_is_true_if_the_product_runs(dtype: torch.dtype) -> None:
    ones = torch.ones(16, 16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(ones, 16)
        runs = bool((torch.ops.mkldnn._linear_pointwise(ones, packed, None, "none", [], "") == 16).all())
    except RuntimeError:
        runs = False
    assert can_pack(dtype) == runs


@pytest.mark.needs("packs")
def test_int8_needs_exact_products() -> None:
    """Without VNNI, pairs of products are added in 16 bits with saturation: 2 * 255 * 127 > 32767."""
    largest, weight = torch.full((32, 64), 255, dtype=torch.uint8), torch.full((32, 64), 127, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    scales, zeros = torch.ones(32), torch.zeros(32, dtype=torch.int64)
    out = (1.0, 0, torch.float32, "none", [], "")
    found = torch.ops.onednn.qlinear_pointwise(largest, 1.0, 0, packed, scales, zeros, None, *out)
    exact = bool((found == 64 * 255 * 127).all())
    assert exact or not capabilities(CPU).int8


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "bfloat16", "int8"),
    [
        ("", True, True),
        ("ALL", True, True),
        ("AVX512_CORE_BF16", True, True),
        ("AVX512_CORE_VNNI", False, True),
        ("avx512_core", False, False),
        ("AVX2", False, False),
    ],
)
def test_limits_of_onednn_apply(
    limit: str, bfloat16: bool, int8: bool, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, limit)
    monkeypatch.setattr(cpu_module, "can_pack", lambda dtype: dtype != torch.float16)
    for query in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, query, lambda: True, raising=False)
    found = cpu_module._cpu.__wrapped__()
    assert (found.bfloat16, found.int8, found.packs, found.float16) == (bfloat16, int8, True, False)


def test_capabilities_need_cpuid_and_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither CPUID nor oneDNN alone is enough; a query that torch does not have counts as no."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(cpu_module, "can_pack", lambda dtype: dtype == torch.float32)
    assert not cpu_module._cpu.__wrapped__().bfloat16
    monkeypatch.setattr(cpu_module, "can_pack", lambda dtype: True)
    monkeypatch.setattr(cpu_module.attention, "tiles", lambda: False)
    for query in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_fp16_supported"):
        monkeypatch.delattr(torch.cpu, query, raising=False)
    found = cpu_module._cpu.__wrapped__()
    assert (found.bfloat16, found.int8, found.float16) == (False, False, False)


SCRIPT = """
import torch
from vitkit.inference.engine import capabilities
from vitkit.kernels import attention, quantize
cpu = capabilities(torch.device("cpu"))
print(cpu.bfloat16, cpu.float16, cpu.int8, cpu.packs, attention.available(), quantize.available())
"""


@pytest.mark.needs("packs")
def test_environment_of_the_avx2_pass_emulates_avx2() -> None:
    """The environment of `make test-avx2`, on any x86 CPU."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "VITKIT_KERNELS": "avx2"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={**os.environ, **limits})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False", "False", "True", "False", "False"]


@pytest.mark.needs("packs")
@pytest.mark.parametrize("act", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_that_cannot_be_packed_is_multiplied_in_float32(
    dtype: torch.dtype, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with AVX2 only: operands are rounded, sums are float32, the result is rounded."""
    monkeypatch.setattr("vitkit.inference.engine.dense.can_pack", lambda dtype: dtype == torch.float32)
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 40).requires_grad_(False), torch.randn(2, 9, 48)
    layer = Dense(linear.weight, linear.bias, dtype=dtype, packed=True, act=act)
    weight, bias = (each.to(dtype).double() for each in (linear.weight, linear.bias))
    expected = PLAIN[act](x.to(dtype).double() @ weight.T + bias)
    with torch.inference_mode():
        found = layer(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=torch.finfo(dtype).eps)
        assert torch.equal(layer(x[1:, 4:]), found[1:, 4:])
        other = torch.randn(2, 9, 40).to(dtype)
        plain = Dense(linear.weight, None, dtype=dtype, packed=True)
        assert plain(x, residual=other).dtype == plain(x, factor=other).dtype == dtype


def test_reason_names_a_missing_capability() -> None:
    model = models.build(models.family("vit").TINY)
    old = Capabilities("AVX2 CPU", bfloat16=False, float16=False, int8=False, packs=True)
    new = Capabilities("AVX512 CPU", bfloat16=True, float16=False, int8=False, packs=True)
    assert [path.fused for path in paths("bfloat16", old, model)] == [True, False]
    assert paths("bfloat16", old, model)[0].reason == (
        "bfloat16 was requested, which is no faster than float32 on this AVX2 CPU without fast low precision"
    )
    assert "no faster" in paths("float16", new, model)[0].reason
    assert paths("bfloat16", new, model)[0].reason == "bfloat16 was requested"
    assert [path.precision for path in paths("auto", old, models.build(models.preset("vit-ti/16"), device="meta"))] == [
        "float32",
        "float32",
    ]
