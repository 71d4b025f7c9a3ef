"""The complete command with processes and a tiny model."""

import json
from pathlib import Path

import pytest

from vitkit import cli

QUICK = ["--rounds", "2", "--seconds", "0.05", "--threads", "1", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inference", "training", "classification", "data", "startup"])
def test_every_kind_runs_with_correct_outputs(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = [] if kind == "data" else ["--model", "vit-mu/16"]
    arguments = ["bench", kind, *model, *QUICK, "--device", "cpu", "--peers", "vitkit,timm", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    for section in found["sections"]:
        assert {row["peer"] for row in section["rows"]} == {"vitkit", "timm"}
        for row in section["rows"]:
            assert row["status"] in ("correct", "measured"), row
            assert len(row["rates"]) == 2
            assert row["peak_bytes"] > 2**20
        assert "times as fast" in section["conclusion"]
    (page,) = tmp_path.glob("*.md")
    assert page.name.startswith(f"{kind}_")
