"""`vitkit paper`: the list, one experiment, what is made here, and what cannot be."""

import json
from pathlib import Path

import pytest

from vitkit import cli, paper


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["paper", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert all(name in out for name in paper.experiments())
    assert "vitkit paper NAME --scale small" in out
    _, lines, _ = run(capsys, "--json")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["name"] for row in rows] == list(paper.experiments())
    assert all(row["full"] and row["small"].startswith("vitkit paper ") for row in rows)


def test_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "table8")
    assert code == 0
    assert "0.6138" in out
    assert "vitkit train vit.b16_jft --data" in out
    assert "vitkit paper table8 --scale small --out runs/paper/table8" in out
    assert "needs JFT-300M, which is not public" in out
    assert json.loads(run(capsys, "table8", "--json")[1])["published"]["rows"][0][0] == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel8"], "the paper has no experiment 'tabel8'; did you mean 'table8'"),
        (
            ["table8", "--scale", "full"],
            "Table 8: position embeddings at full scale needs JFT-300M, which is not public",
        ),
        (["figure7", "--scale", "full"], "needs a ViT with weights (--model google/vit-large-patch16-224) and images"),
        (["table8", "--scale", "small", "--model", "x"], "does not use --model; only figure6, figure7"),
        (["table8", "--scale", "small", "--seeds", "0"], "seeds is 0 and steps is None; both must be at least 1"),
        (["table8", "--scale", "small", "--data", "digit"], "unknown data source 'digit'"),
    ],
)
def test_what_cannot_be_made(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *words)
    assert code == 1
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_is_computed_is_the_same_at_both_scales(
    scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "table1", "--scale", scale, "--out", str(tmp_path / "here"))
    assert code == 0
    assert "632" in out
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"result.json", "result.md"}
    _, out, _ = run(capsys, "table1", "--scale", scale, "--out", str(tmp_path / "here"), "--json")
    assert json.loads(out)["numbers"]["vit-b/16"] == 86.6


def test_a_model_of_ones_own_is_drawn_at_full_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitkit import checkpoints, models
    from vitkit.data.processor import Processor
    from vitkit.models import vit

    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 40)
    labels = tuple(map(str, range(5)))
    checkpoint = checkpoints.Checkpoint(model=models.build(vit.TINY), processor=Processor.squash(32), labels=labels)
    checkpoints.save(checkpoint, tmp_path / "model")
    words = ("figure7", "--scale", "full", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"))
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert f"Model: {tmp_path / 'model'}" in out.replace("\n", "")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "figure7-filters.png",
        "figure7-positions.png",
        "figure7-distance.png",
    }
