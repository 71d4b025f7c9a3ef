"""What this machine is, for the head of a report and the name of its file."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What of a processor's flags decides how fast a ViT can be.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
         "asimd", "bf16", "i8mm")  # fmt: skip
ALWAYS = ("torch", "numpy", "pillow")


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads to measure with where nobody says: OMP_NUM_THREADS, else one a core."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) > 0 else usable_cores()


def device(asked: str) -> str:
    """`cpu` or `cuda`; `auto` is a GPU if there is one. Asked of the driver, so that no context is opened here."""
    has_gpu = bool(gpus())
    if asked == "auto":
        return "cuda" if has_gpu else "cpu"
    if asked not in ("cpu", "cuda"):
        raise ValueError(f"unknown device '{asked}'; there is auto, cpu, cuda")
    if asked == "cuda" and not has_gpu:
        raise ValueError("there is no device 'cuda' here: no NVIDIA driver answers; there is cpu")
    return asked


def gpus() -> list[str]:
    """The names of the NVIDIA GPUs that the driver shows."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def describe(device: str) -> dict[str, Any]:
    """Processor, its flags that matter, cores, memory, load, GPU, system and Python."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "flags": _flags(),
        "cores": usable_cores(),
        "memory_bytes": _memory(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["gpu"] = gpus()
    return found


def words(found: dict[str, Any]) -> str:
    """The processor of a description as people say it: its name, cores and abilities."""
    return f"{found['processor']}, {found['cores']} cores ({', '.join(found['flags'])})"


def short_name(found: dict[str, Any]) -> str:
    """For a file name: letters, digits and hyphens, as in `amd-epyc-2-cores` or `nvidia-h200`."""
    text = found["gpu"][0].split(",")[0] if found.get("gpu") else f"{found['processor']} {found['cores']} cores"
    text = re.sub(r"\((R|TM)\)|@.*?GHz|\bCPU\b|\bProcessor\b", " ", text)
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of these distributions; those that are missing are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    found: dict[str, str] = {}
    for key, _, value in pairs:
        found.setdefault(key.strip(), value.strip())
    return found


def _processor() -> str:
    found = _cpuinfo()
    return found.get("model name") or platform.processor() or platform.machine()


def _flags() -> list[str]:
    found = _cpuinfo()
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return [flag for flag in FLAGS if flag in flags]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
