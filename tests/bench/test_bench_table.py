"""Statistics, status and reports on synthetic measurements."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitkit.bench import Candidate, Job, Plan, figures, machine, table
from vitkit.bench.figures import Row, Spread
from vitkit.bench.measure import Report, Section


def row(peer: str, rates: list[float], precision: str = "bfloat16", status: str = "correct", **fields: object) -> Row:
    rate = figures.spread(rates) if rates else None
    each = Candidate(peer=peer, precision=precision)
    return Row(candidate=each, status=status, rates=rates, rate=rate, **fields)  # type: ignore[arg-type]


def report(rows: list[Row], kind: str = "inference", **fields: object) -> Report:
    figures.compare(rows)
    job = Job(kind=kind, task=kind, model="vit-b/16", batch=8, threads=2)
    limits = [row("limit", [2e12], notes={"products": "onednn packed"}), row("limit", [2e10], "copy")]
    return Report(
        kind=kind,
        sections=[Section(job=job, rows=rows, limits=limits, reference="timm float32")],
        machine={
            "processor": "AMD EPYC(R) Processor",
            "flags": ["avx512_bf16"],
            "cores": 2,
            "memory_bytes": 2**34,
            "load": 0.5,
            "system": "Linux 6",
            "python": "3.11",
        },
        versions={"torch": "9.9"},
        date="2026-11-21T12:00:00+00:00",
        command="vitkit bench inference",
        plan=Plan(rounds=3),
        **fields,  # type: ignore[arg-type]
    )


def test_median_and_quartiles_equal_numpy() -> None:
    rates = [3.0, 1.0, 7.0, 2.0, 9.0]
    low, middle, high = np.percentile(rates, [25, 50, 75])
    assert figures.spread(rates) == Spread(middle, low, high)
    assert figures.spread([4.0]) == Spread(4.0, 4.0, 4.0)
    assert figures.spread([2.0, 4.0]).inverse().median == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="an empty list"):
        figures.spread([])


def test_load_on_the_machine_cancels_out_of_the_ratio() -> None:
    # The machine is three times slower in the second half; the ratio is always 2.
    speed = [1.0, 1.0, 1 / 3, 1 / 3, 1 / 3]
    rates, others = [20.0 * each for each in speed], [10.0 * each for each in speed]
    assert figures.paired_ratio(rates, others) == Spread(pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))


def test_ratios_are_relative_to_the_fastest_correct_peer_of_the_same_precision() -> None:
    rows = [
        row("vitkit", [30.0] * 3),
        row("timm", [20.0] * 3),
        row("openvino", [25.0] * 3),
        row("incorrect", [99.0] * 3, status="wrong"),
        row("crashed", [99.0] * 2, status="failed"),
        row("unknown", [99.0] * 3, status="unchecked"),
        row("timm", [5.0] * 3, "float32"),
        row("vitkit", [50.0] * 3, "int8"),
    ]
    figures.compare(rows)
    assert [each.baseline for each in rows] == [
        *["openvino bfloat16"] * 3,
        *[""] * 3,
        "timm float32",
        "openvino bfloat16",
    ]
    medians = [None if each.ratio is None else each.ratio.median for each in rows]
    assert medians == [1.2, 0.8, 1.0, None, None, None, 1.0, 2.0]
    assert figures.conclusion(rows) == (
        "The fastest of vitkit (vitkit int8) is 2.00 times as fast (2.00 to 2.00) "
        "as the fastest peer (openvino bfloat16)."
    )


def test_no_ratio_without_correct_outputs() -> None:
    assert "no peer finished" in figures.conclusion([row("vitkit", [1.0])])
    assert "vitkit finished" in figures.conclusion([row("timm", [1.0])])
    assert "no candidate" in figures.conclusion(
        [row("vitkit", [1.0], status="wrong"), row("timm", [], status="failed")]
    )


def test_wrong_and_failed_rows_are_last_without_ratio() -> None:
    rows = [
        row("incorrect", [99.0], status="wrong", reason="relative difference of the logits: 0.9"),
        row("openvino", [], status="missing", reason="not installed: openvino"),
        row("timm", [20.0]),
        row("vitkit", [30.0], peak_bytes=2**30, difference=0.004, fraction_of_limit=0.52),
    ]
    page = table.markdown(report(rows))
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    names = [line.split("|")[1].strip() for line in lines if "---" not in line]
    assert names == ["vitkit bfloat16", "timm bfloat16", "incorrect bfloat16", "openvino bfloat16"]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["vitkit bfloat16"] == ["30 (30 to 30)", "1.50x", "52%", "1,024", "0.004", "correct"]
    assert cells["incorrect bfloat16"][1:3] == ["-", "-"]
    assert cells["openvino bfloat16"][-1] == "missing"
    assert "openvino bfloat16, missing: not installed: openvino." in page
    assert "incorrect bfloat16, wrong: relative difference of the logits: 0.9." in page
    assert "Limit, bfloat16: 2 TFLOP/s" in page
    assert "Limit, copy: 20.0 GB/s" in page
    assert "1.50 times as fast" in page


def test_startup_is_shown_in_seconds() -> None:
    page = table.markdown(report([row("timm", [0.25], ""), row("vitkit", [0.5], "")], kind="startup"))
    row_of_vitkit = next(line for line in page.splitlines() if line.startswith("| vitkit "))
    assert [cell.strip() for cell in row_of_vitkit.split("|")[2:4]] == ["2 (2 to 2)", "2.00x"]


def test_file_names_have_kind_hardware_and_date(tmp_path: Path) -> None:
    page, data = table.write(report([row("vitkit", [1.0]), row("timm", [0.5])], interrupted=True), tmp_path)
    assert page.name == "inference_amd-epyc-2-cores_2026-11-21.md"
    assert "Interrupted" in page.read_text()
    found = json.loads(data.read_text())
    assert found["interrupted"] is True
    assert found["sections"][0]["rows"][0]["ratio"]["median"] == 2.0
    assert machine.short_name({"gpu": ["NVIDIA H200, 570.1"], "processor": "x", "cores": 9}) == "nvidia-h200"


def test_terminal_shows_every_candidate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    table.show(report([row("vitkit", [1.0]), row("timm", [], status="failed", reason="ended by SIGKILL")]))
    out = capsys.readouterr().out
    assert "vitkit bfloat16" in out
    assert "timm bfloat16, failed: ended by SIGKILL" in out


def test_the_table_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates with long settings stay apart."""
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"vitkit:resampling=pillow,merge_tokens={number},compile=true" for number in range(3)]
    table.show(report([row(name, [1234.5], peak_bytes=2**34, difference=0.0123) for name in names]))
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.endswith(" correct")]
    assert len({line[:20] for line in shown}) == 3
    assert max(len(line) for line in shown) <= 80
    assert not [line for line in lines if line != line.rstrip()]
