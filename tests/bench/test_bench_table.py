"""Figures, verdicts and what is printed of them, on made-up measurements."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitkit.bench import Contender, Job, Plan, figures, machine, table
from vitkit.bench.figures import Row, Spread
from vitkit.bench.measure import Report, Section


def row(peer: str, rates: list[float], precision: str = "bfloat16", verdict: str = "right", **fields: object) -> Row:
    rate = figures.spread(rates) if rates else None
    each = Contender(peer=peer, precision=precision)
    return Row(contender=each, verdict=verdict, rates=rates, rate=rate, **fields)  # type: ignore[arg-type]


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


def test_the_median_and_the_quartiles_are_numpys() -> None:
    rates = [3.0, 1.0, 7.0, 2.0, 9.0]
    low, middle, high = np.percentile(rates, [25, 50, 75])
    assert figures.spread(rates) == Spread(middle, low, high)
    assert figures.spread([4.0]) == Spread(4.0, 4.0, 4.0)
    assert figures.spread([2.0, 4.0]).inverse().median == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="nothing"):
        figures.spread([])


def test_a_ratio_is_taken_within_rounds_so_that_a_busy_minute_falls_out() -> None:
    # The machine is three times slower in the second half; ours is always twice as fast.
    busy = [1.0, 1.0, 1 / 3, 1 / 3, 1 / 3]
    ours, theirs = [20.0 * share for share in busy], [10.0 * share for share in busy]
    assert figures.paired(ours, theirs) == Spread(pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))


def test_ratios_are_to_the_fastest_right_peer_of_the_same_precision() -> None:
    rows = [
        row("vitkit", [30.0] * 3),
        row("timm", [20.0] * 3),
        row("openvino", [25.0] * 3),
        row("cheat", [99.0] * 3, verdict="wrong"),
        row("fell", [99.0] * 2, verdict="failed"),
        row("unknown", [99.0] * 3, verdict="unchecked"),
        row("timm", [5.0] * 3, "float32"),
        row("vitkit", [50.0] * 3, "int8"),
    ]
    figures.compare(rows)
    assert [each.against for each in rows] == [
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


def test_without_a_right_pair_there_is_no_ratio() -> None:
    assert "no peer finished" in figures.conclusion([row("vitkit", [1.0])])
    assert "vitkit finished" in figures.conclusion([row("timm", [1.0])])
    assert "no contender" in figures.conclusion(
        [row("vitkit", [1.0], verdict="wrong"), row("timm", [], verdict="failed")]
    )


def test_wrong_and_failed_come_last_and_have_no_ratio() -> None:
    rows = [
        row("cheat", [99.0], verdict="wrong", reason="relative difference of the logits: 0.9"),
        row("openvino", [], verdict="missing", reason="not installed: openvino"),
        row("timm", [20.0]),
        row("vitkit", [30.0], peak_bytes=2**30, difference=0.004, share_of_limit=0.52),
    ]
    page = table.markdown(report(rows))
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    names = [line.split("|")[1].strip() for line in lines if "---" not in line]
    assert names == ["vitkit bfloat16", "timm bfloat16", "cheat bfloat16", "openvino bfloat16"]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["vitkit bfloat16"] == ["30 (30 to 30)", "1.50x", "52%", "1,024", "0.004", "right"]
    assert cells["cheat bfloat16"][1:3] == ["-", "-"]
    assert cells["openvino bfloat16"][-1] == "missing"
    assert "openvino bfloat16, missing: not installed: openvino." in page
    assert "cheat bfloat16, wrong: relative difference of the logits: 0.9." in page
    assert "Limit, bfloat16: 2 TFLOP/s" in page
    assert "Limit, copy: 20.0 GB/s" in page
    assert "1.50 times as fast" in page


def test_start_up_is_shown_in_seconds_and_a_smaller_one_is_better() -> None:
    page = table.markdown(report([row("timm", [0.25], ""), row("vitkit", [0.5], "")], kind="startup"))
    ours = next(line for line in page.splitlines() if line.startswith("| vitkit "))
    assert [cell.strip() for cell in ours.split("|")[2:4]] == ["2 (2 to 2)", "2.00x"]


def test_the_page_and_its_data_are_named_by_what_hardware_and_date(tmp_path: Path) -> None:
    page, data = table.write(report([row("vitkit", [1.0]), row("timm", [0.5])], interrupted=True), tmp_path)
    assert page.name == "inference_amd-epyc-2-cores_2026-11-21.md"
    assert "Stopped by hand" in page.read_text()
    found = json.loads(data.read_text())
    assert found["interrupted"] is True
    assert found["sections"][0]["rows"][0]["ratio"]["median"] == 2.0
    assert machine.short_name({"gpu": ["NVIDIA H200, 570.1"], "processor": "x", "cores": 9}) == "nvidia-h200"


def test_the_terminal_shows_every_contender(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    table.show(report([row("vitkit", [1.0]), row("timm", [], verdict="failed", reason="ended by SIGKILL")]))
    said = capsys.readouterr().out
    assert "vitkit bfloat16" in said
    assert "timm bfloat16, failed: ended by SIGKILL" in said
