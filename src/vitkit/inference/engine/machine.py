"""What the machine at hand can do: which arithmetic its processor or GPU has circuits for."""

import os
import platform
from dataclasses import dataclass
from functools import lru_cache

import torch

from vitkit.kernels import attention

# Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from multiplying 8-bit numbers exactly and from multiplying bfloat16.
WITHOUT_INT8 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"})
WITHOUT_BFLOAT16 = WITHOUT_INT8 | {"AVX512_CORE_VNNI"}


@dataclass(frozen=True)
class Machine:
    """The abilities that decide how a network is run.

    `bfloat16`, `float16`, `int8` and `float8`: products of that type run in circuits of their own, not by way of
    float32.
    `tiles`: the CPU multiplies whole tiles (Intel AMX). `packs`: oneDNN's products of weights packed once are there, in
    float32 at least (`can_pack`).
    """

    device: str
    bfloat16: bool
    float16: bool
    int8: bool
    tiles: bool = False
    packs: bool = False
    float8: bool = False

    @property
    def words(self) -> str:
        """One phrase for people: the device and what it has."""
        kinds = [name for name in ("bfloat16", "float16", "int8", "float8") if getattr(self, name)]
        how = " in tiles (AMX)" if self.tiles else ""
        return (
            f"{self.device} with {', '.join(kinds)}{how}"
            if kinds
            else f"{self.device} without arithmetic below float32"
        )


def machine(device: torch.device) -> Machine:
    """What the machine of that torch device can do."""
    if device.type == "cuda":
        # Ampere (8.0) brought bfloat16, Ada (8.9) float8; every GPU that torch supports multiplies float16.
        capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        return Machine(name, bfloat16=capability >= (8, 0), float16=True, int8=False, float8=capability >= (8, 9))
    if device.type != "cpu":
        return Machine(device.type, bfloat16=False, float16=False, int8=False)
    return _cpu()


@lru_cache(maxsize=1)
def _cpu() -> Machine:
    """What both the CPU (by CPUID, as torch reads it) and oneDNN (which the environment can limit) support.

    A question that this version of torch cannot answer counts as no.
    """

    def has(question: str) -> bool:
        ask = getattr(torch.cpu, question, None)
        return bool(ask is not None and ask())

    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    tiles = attention.tiles()
    bfloat16 = has("_is_avx512_bf16_supported") or tiles
    int8 = has("_is_vnni_supported") and hasattr(torch.ops.onednn, "qlinear_pointwise")
    packs = can_pack(torch.float32)
    return Machine(
        f"{torch.backends.cpu.get_cpu_capability()} CPU",
        bfloat16=bfloat16 and can_pack(torch.bfloat16) and limit not in WITHOUT_BFLOAT16,
        float16=has("_is_amx_fp16_supported") and can_pack(torch.float16),
        int8=int8 and packs and limit not in WITHOUT_INT8,
        tiles=tiles,
        packs=packs,
    )


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies with packed weights of that type on this CPU.

    float32 works on every x86 CPU, bfloat16 needs AVX-512 or AVX-NE-CONVERT, float16 needs AVX-512 FP16.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    if dtype == torch.float32:
        return True
    # What the products themselves ask before they run.
    question = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    ask = None if question is None else getattr(torch.ops.mkldnn, question, None)
    return bool(ask is not None and ask())
