"""What the machine at hand can do: which arithmetic its processor or GPU has circuits for."""

import platform
from dataclasses import dataclass
from functools import lru_cache

import torch

from vitkit.kernels import attention


@dataclass(frozen=True)
class Machine:
    """The abilities that decide how a network is run.

    `bfloat16`, `float16`, `int8` and `float8`: products of that type run in circuits of their own, not by way of
    float32.
    `tiles`: the CPU multiplies whole tiles (Intel AMX). `packs`: oneDNN's products of weights packed once are there.
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
    """The processor; a question that this version of torch cannot answer counts as no."""

    def has(question: str) -> bool:
        ask = getattr(torch.cpu, question, None)
        return bool(ask is not None and ask())

    intel_like = platform.machine().lower() in ("x86_64", "amd64")
    packs = (
        intel_like
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
    tiles = attention.tiles()
    return Machine(
        f"{torch.backends.cpu.get_cpu_capability()} CPU",
        bfloat16=has("_is_avx512_bf16_supported") or tiles,
        float16=has("_is_amx_fp16_supported"),
        int8=packs and has("_is_vnni_supported") and hasattr(torch.ops.onednn, "qlinear_pointwise"),
        tiles=tiles,
        packs=packs,
    )
