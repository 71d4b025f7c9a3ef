"""Environment of `gpu_check.py`: this checkout and a few unpacked wheels; nothing is installed.

Standard library only. Pure-Python wheels from `.gpu-wheels/` are unpacked into a temporary folder
if the machine lacks the package, vitkit runs from `src/`, and its C kernels are compiled if there is a C compiler.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / ".gpu-wheels"
SHOWN = ("torch", "triton", "timm", "transformers", "torchvision", "numpy", "pillow", "pytest", "tyro", "jaxtyping")
# Runs in the prepared environment: imports the requirements of the checks, and prints facts about the machine.
FACTS = """
import importlib, importlib.util, json, sys
needs = "torch numpy PIL safetensors huggingface_hub einops jaxtyping tyro rich matplotlib tensorboard vitkit.cli"
missing = []
for name in needs.split():
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing.append(f"{name} ({error})")
missing += [name for name in sys.argv[2:] if importlib.util.find_spec(name) is None]
found = {"missing": missing}
if not missing:
    import torch
    from vitkit.bench import machine
    device = sys.argv[1]
    found["cuda"] = torch.cuda.is_available()
    if device == "cpu" or found["cuda"]:
        found["machine"] = machine.describe(device)
        found["short_name"] = machine.short_name(found["machine"])
        found["cuda_version"] = torch.version.cuda
    if device == "cuda" and found["cuda"]:
        gpu = torch.cuda.get_device_properties(0)
        found["device"] = {
            "name": gpu.name, "capability": [gpu.major, gpu.minor], "memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count,
        }
print(json.dumps(found))
"""


class Unusable(Exception):  # noqa: N818 - a state of the machine, reported in one sentence
    """The machine lacks a requirement of every check."""


def prepare(work: Path, device: str, needs: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns the variables for all checks, and facts about the machine; `needs` are further modules to look for.

    Raises Unusable if a package is missing or if there is no such device.
    """
    site = work / "site"
    site.mkdir(parents=True)
    unpacked = unpack_missing(WHEELS, site)
    write_metadata(site)
    kernels = compile_kernels()
    variables = environment(work, site, device)
    done = subprocess.run(
        [sys.executable, "-c", FACTS, device, *needs], env=variables, cwd=work, capture_output=True, text=True
    )
    if done.returncode:
        raise Unusable(f"the environment does not work: {last_line(done.stderr)}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["missing"]:
        found = "it exists" if WHEELS.is_dir() else "it is missing"
        raise Unusable(
            f"missing packages: {', '.join(facts['missing'])}; run scripts/gpu_wheels.sh on a machine with network and "
            f"copy the folder .gpu-wheels ({found})"
        )
    if device == "cuda" and not facts["cuda"]:
        raise Unusable("torch finds no CUDA device: check nvidia-smi, or use --device cpu")
    facts |= {"unpacked": unpacked, "kernels": kernels, "versions": versions(), "commit": commit()}
    return variables, facts


def unpack_missing(wheels: Path, site: Path) -> list[str]:
    """Unpacks the wheels of packages that this Python lacks; raises Unusable for one that is not pure Python."""
    unpacked = []
    for wheel in sorted(wheels.glob("*.whl")):
        if not wheel.name.endswith("-none-any.whl"):
            raise Unusable(f"{wheel.name} is not a pure-Python wheel: remove it from {wheels.name}")
        name = wheel.name.split("-")[0]
        try:
            distribution(name)
        except PackageNotFoundError:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            unpacked.append("-".join(wheel.name.split("-")[:2]))
    return unpacked


def write_metadata(site: Path) -> None:
    """Gives vitkit a version without installing it: the metadata that an editable installation would have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text)


def compile_kernels() -> str:
    """Compiles the C kernels into this checkout, as an installation does; returns the results as text."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    results = []
    for module in modules:
        target = (ROOT / "src" / Path(*module["name"].split("."))).with_suffix(suffix)
        if target.exists():
            results.append(f"{target.stem.split('.')[0]} existed")
            continue
        if compiler is None:
            return "not compiled: no C compiler found"
        command = [compiler, *module["extra-compile-args"], "-shared", "-fPIC", "-o", str(target), *module["sources"]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        results.append(f"{target.stem.split('.')[0]} {'compiled' if done.returncode == 0 else last_line(done.stderr)}")
    return ", ".join(results)


def environment(work: Path, site: Path, device: str) -> dict[str, str]:
    """Returns environment variables: sources of this checkout first, no network, caches in the working folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True)
    paths = [str(ROOT / "src"), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
        "MPLCONFIGDIR": str(work / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, cores // 2)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // 4) if device == "cuda" else cores),
        # Plugins of the machine's own pytest may warn, and warnings are errors in the tests.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, **own, **hidden}


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages in `SHOWN`."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in SHOWN:
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns the commit of this checkout; empty without a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def last_line(text: str) -> str:
    """Returns the last line that is not empty, at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
