"""Detects for which dtypes the CPU or GPU has dedicated hardware for matrix products."""

import os
import platform
from dataclasses import dataclass
from functools import lru_cache

import torch

from vitkit.kernels import attention

# Values of ONEDNN_MAX_CPU_ISA with which oneDNN has no exact int8 products, and no bfloat16 products.
WITHOUT_INT8 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"})
WITHOUT_BFLOAT16 = WITHOUT_INT8 | {"AVX512_CORE_VNNI"}


@dataclass(frozen=True)
class Capabilities:
    """The hardware features of a device that determine how a model is run on it.

    `bfloat16`, `float16`, `int8` and `float8`: matrix products of this dtype run in dedicated hardware instead of
    float32. `tiles`: the CPU has matrix tiles (Intel AMX). `packs`: oneDNN can multiply with prepacked weights, at
    least in float32 (see `can_pack`).
    """

    device: str
    bfloat16: bool
    float16: bool
    int8: bool
    tiles: bool = False
    packs: bool = False
    float8: bool = False

    @property
    def description(self) -> str:
        """A short description of the device and of the dtypes that it accelerates."""
        dtypes = [name for name in ("bfloat16", "float16", "int8", "float8") if getattr(self, name)]
        tiles = " in tiles (AMX)" if self.tiles else ""
        return (
            f"{self.device} with {', '.join(dtypes)}{tiles}" if dtypes else f"{self.device} without fast low precision"
        )


def capabilities(device: torch.device) -> Capabilities:
    """Returns the hardware features of a torch device."""
    if device.type == "cuda":
        # bfloat16 since Ampere (8.0), float8 since Ada (8.9), float16 on every GPU that torch supports.
        version, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        return Capabilities(name, bfloat16=version >= (8, 0), float16=True, int8=False, float8=version >= (8, 9))
    if device.type != "cpu":
        return Capabilities(device.type, bfloat16=False, float16=False, int8=False)
    return _cpu()


@lru_cache(maxsize=1)
def _cpu() -> Capabilities:
    """Returns the hardware features of this CPU that oneDNN also supports.

    A feature that this version of torch cannot query counts as missing.
    """

    def has(query: str) -> bool:
        function = getattr(torch.cpu, query, None)
        return bool(function is not None and function())

    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    tiles = attention.tiles()
    bfloat16 = has("_is_avx512_bf16_supported") or tiles
    int8 = has("_is_vnni_supported") and hasattr(torch.ops.onednn, "qlinear_pointwise")
    packs = can_pack(torch.float32)
    return Capabilities(
        f"{torch.backends.cpu.get_cpu_capability()} CPU",
        bfloat16=bfloat16 and can_pack(torch.bfloat16) and limit not in WITHOUT_BFLOAT16,
        float16=has("_is_amx_fp16_supported") and can_pack(torch.float16),
        int8=int8 and packs and limit not in WITHOUT_INT8,
        tiles=tiles,
        packs=packs,
    )


def can_pack(dtype: torch.dtype) -> bool:
    """Returns whether oneDNN can multiply by packed weights of this dtype on this CPU.

    float32 works on every x86 CPU, bfloat16 needs AVX-512 or AVX-NE-CONVERT, float16 needs AVX-512 FP16.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    if dtype == torch.float32:
        return True
    # The products call the same checks before they run.
    query = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    function = None if query is None else getattr(torch.ops.mkldnn, query, None)
    return bool(function is not None and function())
