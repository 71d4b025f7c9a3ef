"""The GPU check: command line, steps, time limits, and a test run of one part on the CPU."""

import json
import os
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MACHINE = {"processor": "a processor", "flags": ["avx2", "avx512f"], "cores": 4}
FACTS = {
    "machine": MACHINE, "short_name": "a-machine", "commit": "", "versions": {"torch": "2.11.0"}, "unpacked": [],
    "kernels": "compiled", "seconds_to_prepare": 1.0, "options": {"part": "all", "device": "cpu", "tiny": True},
}  # fmt: skip


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("gpu_check")


@pytest.fixture
def listed(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function from a command line to its steps."""
    monkeypatch.delenv("VITKIT_SHARED", raising=False)
    return lambda *words: check.gpu_steps.steps(check.parsed(list(words)), FACTS, tmp_path)


def test_the_command_line(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    plain = check.parsed([])
    assert (plain.part, plain.device, plain.tiny, plain.out) == ("all", "cuda", False, ROOT / "benchmarks")
    given = check.parsed(["training", "--device", "cpu", "--tiny", "--out", "somewhere"])
    assert (given.part, given.device, given.tiny, given.out) == ("training", "cpu", True, Path("somewhere"))
    for wrong in (["speed"], ["all", "--device", "tpu"], ["--limit", "5"]):
        with pytest.raises(SystemExit) as ended:
            check.parsed(wrong)
        assert ended.value.code == 2
    assert "it must be at least" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("size", [(), ("--tiny",)])
def test_all_runs_every_part_in_order(listed: Any, device: str, size: tuple[str, ...]) -> None:
    every = listed("all", "--device", device, *size)
    parts = ("tests", "inference", "training", "recipe")
    assert tuple(dict.fromkeys(step.part for step in every)) == parts
    alone = [step.name for part in parts for step in listed(part, "--device", device, *size)]
    assert alone == [step.name for step in every]


def test_gpu_benchmarks_have_both_models_and_all_peers(listed: Any) -> None:
    benchmarks = [step for step in listed("all") if "bench" in step.command]
    assert [(step.part, step.name.split(",")[0]) for step in benchmarks] == [
        ("inference", "vit-b/16"), ("inference", "vit-l/16"), ("training", "vit-b/16"), ("training", "vit-l/16"),
    ]  # fmt: skip
    for step in benchmarks:
        peers = step.command[step.command.index("--peers") + 1].split(",")
        assert {"vitkit", "timm", "timm_compiled", "transformers"} <= set(peers)
        assert any(peer.startswith("vitkit:") and peer.endswith("compile=true") for peer in peers)
        assert (step.part == "inference") == any("float8" in peer for peer in peers)
        assert step.command[step.command.index("--precision") + 1] == "bfloat16"


def test_all_files_with_cuda_tests_are_run(listed: Any) -> None:
    (step,) = listed("tests")
    assert "tests/data/test_on_device.py" in step.command
    assert "tests/inference/test_compiled.py" in step.command
    assert not any(word.endswith(Path(__file__).name) for word in step.command)


def test_failed_steps_do_not_stop_the_others(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(check, "GRACE", 1.0)
    # Starts a child process, which must not outlive it; both ignore interrupts.
    child = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); os.fork(); time.sleep(60)"
    scripts = {"sleeps": child, "fails": "print('a line'); raise SystemExit(3)", "works": "print('{\"size\": 1}')"}

    def step(name: str) -> Any:
        read = check.gpu_steps.json_line if name == "works" else lambda log: {}
        command = (sys.executable, "-S", "-c", scripts[name])
        return check.Step(part="other", name=name, command=command, weight=1, read=lambda log: (read(log), []))

    steps = [step(name) for name in scripts]
    results = [check.Result(part=each.part, name=each.name) for each in steps]
    begin = time.monotonic()
    check.run_all(steps, results, begin + 12, dict(os.environ), FACTS, tmp_path / "out", tmp_path)
    assert time.monotonic() - begin < 12
    assert [result.outcome for result in results] == ["out of time", "failed", "passed"]
    assert results[1].reason == "exit status 3: a line"
    assert results[2].found == {"size": 1}
    (page,) = (tmp_path / "out").glob("*.md")
    assert "| other | sleeps | out of time |" in page.read_text()
    (data,) = (tmp_path / "out").glob("*.json")
    assert [each["outcome"] for each in json.loads(data.read_text())["steps"]] == ["out of time", "failed", "passed"]


def test_step_without_time_left_is_not_started(check: ModuleType, tmp_path: Path) -> None:
    step = check.Step(part="tests", name="a", command=("false",), weight=1, read=lambda log: ({}, []))
    result = check.Result(part="tests", name="a")
    check.run_step(step, result, time.monotonic() + 3, {}, tmp_path)
    assert result.outcome == "not started"
    assert "needs at least" in result.reason


def test_failed_and_wrong_candidates_fail_the_step(check: ModuleType, tmp_path: Path) -> None:
    row = {"candidate": "vitkit bfloat16", "status": "correct", "reason": "", "rate": {"median": 2.0}}
    wrong = {**row, "candidate": "timm bfloat16", "status": "wrong", "reason": "far off"}
    report = {"interrupted": False, "sections": [{"rows": [row], "limits": []}]}
    (tmp_path / "a.json").write_text(json.dumps(report))
    assert check.gpu_steps.read_bench(tmp_path) == (report, [])
    report["sections"][0]["rows"].append(wrong)  # type: ignore[index]
    (tmp_path / "a.json").write_text(json.dumps(report))
    assert check.gpu_steps.read_bench(tmp_path)[1] == ["timm bfloat16 wrong: far off"]


def test_mfu_is_relative_to_the_matrix_product(check: ModuleType) -> None:
    row = {
        "candidate": "vitkit bfloat16", "precision": "bfloat16", "status": "correct", "reason": "", "notes": {},
        "rate": {"median": 1000.0}, "fraction_of_limit": 0.5, "ratio": None, "peak_bytes": 0, "seconds_to_prepare": 1.0,
    }  # fmt: skip
    section = {"rows": [row], "limits": [], "shape": {"flops": 35e9}, "conclusion": "", "reference": ""}
    product = {"precision": "bfloat16", "tflops": 700.0}
    table = check.gpu_page.bench({"kind": "training"}, section, product)
    # 1000 images/s * 35 GFLOP * 3 passes = 105 TFLOP/s, of 700.
    assert table[2].split(" | ")[2:5] == ["105", "15.0%", "50.0%"]
    assert check.gpu_page.bench({"kind": "inference"}, section, None)[2].split(" | ")[2:4] == ["35", "-"]


def test_only_missing_pure_wheels_are_unpacked(check: ModuleType, tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name in ("absent_package-1.0-py3-none-any.whl", "numpy-99.0-py3-none-any.whl"):
        with zipfile.ZipFile(wheels / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}.py", "value = 1\n")
    assert check.gpu_environment.unpack_missing(wheels, site) == ["absent_package-1.0"]
    assert [path.name for path in site.iterdir()] == ["absent_package.py"]
    (wheels / "built-1.0-cp312-cp312-linux_x86_64.whl").touch()
    with pytest.raises(check.gpu_environment.Unusable, match="is not a pure-Python wheel"):
        check.gpu_environment.unpack_missing(wheels, site)


def test_shell_scripts_have_no_addresses() -> None:
    for name in ("gpu_wheels.sh", "gpu_check.sh"):
        text = (ROOT / "scripts" / name).read_text()
        assert "://" not in text
        assert "index-url" not in text


@pytest.mark.slow
def test_run_of_the_recipe_part(tmp_path: Path) -> None:
    """Runs the shell script in a process, from another folder."""
    variables = {**os.environ, "PYTHON": sys.executable, "LIMIT": "400", "VITKIT_SHARED": str(tmp_path)}
    command = [ROOT / "scripts" / "gpu_check.sh", "recipe", "--device", "cpu", "--tiny", "--out", "page"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stdout + done.stderr
    (data,) = (tmp_path / "page").glob("*.json")
    (step,) = json.loads(data.read_text())["steps"]
    assert step["outcome"] == "passed"
    assert step["found"]["steps"] > 0
    assert step["found"]["evaluation"]["top1.accuracy"] > 0
    (page,) = (tmp_path / "page").glob("*.md")
    assert "## Recipe: " in page.read_text()
