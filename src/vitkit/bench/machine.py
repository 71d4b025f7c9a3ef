"""Describes the hardware of this machine, for reports and file names."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vitkit.config import JsonDict

# CPU flags that determine the speed of a ViT.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
         "asimd", "bf16", "i8mm")  # fmt: skip
ALWAYS = ("torch", "numpy", "pillow")


def usable_cores() -> int:
    """Returns the number of CPU cores that this process is allowed to use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Returns the default number of threads: OMP_NUM_THREADS if set, otherwise the number of cores."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() and int(value) > 0 else usable_cores()


def device(name: str) -> str:
    """Returns `cpu` or `cuda` for the option `auto`, `cpu` or `cuda`, without creating a CUDA context."""
    has_gpu = bool(gpus())
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(f"unknown device '{name}'; choose auto, cpu, cuda")
    if name == "cuda" and not has_gpu:
        raise ValueError("device 'cuda' is not available: no NVIDIA driver found; use cpu")
    return name


def gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that the driver lists."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def describe(device: str) -> JsonDict:
    """Returns a description of the processor, memory, load, GPU, operating system and Python version."""
    found: JsonDict = {
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


def summary(found: JsonDict) -> str:
    """Returns one line of text with the name, number of cores and instruction sets of the processor."""
    return f"{found['processor']}, {found['cores']} cores ({', '.join(found['flags'])})"


def short_name(found: JsonDict) -> str:
    """Returns a hardware name for file names, such as `amd-epyc-2-cores` or `nvidia-h200`."""
    text = found["gpu"][0].split(",")[0] if found.get("gpu") else f"{found['processor']} {found['cores']} cores"
    text = re.sub(r"\((R|TM)\)|@.*?GHz|\bCPU\b|\bProcessor\b", " ", text)
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of Python distributions. Those that are not installed are omitted."""
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
