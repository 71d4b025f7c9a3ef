"""The tables of `classify` and `embed`: on a terminal they fit its width, in a pipe nothing is cut; files by suffix."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor

LABELS = ("a label that is much longer than a terminal of eighty columns, as the names of ImageNet are: " * 2, "dog")


class Terminal(io.StringIO):
    """A stream in memory that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=2))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    made = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=LABELS)
    checkpoints.save(made, folder / "model")
    inner = folder / "photos" / ("a folder with a long name " * 3)
    inner.mkdir(parents=True)
    for name in ("left", "right", "other"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(inner / f"the {name} one of many images with nearly equal names.png")
    return folder


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_fit_a_terminal_and_names_stay_distinct(
    place: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["classify", str(place / "model"), str(place / "photos")]) == 0
    lines = [line for line in terminal.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines() if line]
    assert len(lines) == 9
    assert max(map(cell_len, lines)) <= columns
    names = [line for line in lines if not line.startswith("  ")]
    assert len(set(names)) == 3


def test_nothing_is_cut_in_a_pipe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(place / "model"), str(place / "photos"), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[::2]) == sorted(map(str, (place / "photos").rglob("*.png")))
    (score,) = {line.split()[0] for line in lines[1::2]}
    results = vitkit.classify(place / "model", place / "photos", top=1)
    assert score == f"{results[0].score:.2%}"
    assert all(line.endswith((LABELS[0], LABELS[1])) for line in lines[1::2])


def test_classify_writes_a_table_to_a_file(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(place / "photos"), "gone.png"]
    assert main(["classify", str(place / "model"), *images, "--csv"]) == 2
    printed = capsys.readouterr().out
    assert main(["classify", str(place / "model"), *images, "--out", str(tmp_path / "a.csv")]) == 2
    out, err = capsys.readouterr()
    assert (tmp_path / "a.csv").read_text() == printed
    assert out == f"{tmp_path / 'a.csv'}: predictions for 3 images\n"
    assert err == "vitkit: 1 of 4 images could not be read: gone.png: the file cannot be opened: it does not exist\n"
    assert main(["classify", str(place / "model"), *images, "--out", str(tmp_path / "a.jsonl")]) == 2
    assert len([json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]) == 4
    for wrong, message in (
        (["--out", str(tmp_path / "a.txt")], "its name must end in .csv, .jsonl, .parquet"),
        (["--out", str(tmp_path / "no" / "a.csv")], "does not exist"),
        (["--out", str(tmp_path / "a.csv"), "--json"], "omit --json"),
    ):
        capsys.readouterr()
        assert main(["classify", str(place / "model"), *images, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_embed_writes_files_by_suffix(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".npz", ".csv", ".jsonl"):
        path = tmp_path / f"e{suffix}"
        assert main(["embed", str(place / "model"), str(place / "photos"), "--out", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: 3 embeddings of width 32\n"
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    with np.load(tmp_path / "e.npz") as file:
        np.testing.assert_array_equal(np.float32([row["embedding"] for row in rows]), file["embeddings"])


def test_notes_are_logged_and_shown_by_commands(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=2))
    made = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("a", "b"))
    checkpoints.save(made, tmp_path / "new")
    image = next((place / "photos").rglob("*.png"))
    assert main(["classify", str(tmp_path / "new"), str(image)]) == 0
    assert capfd.readouterr().err == f"vitkit: {checkpoints.load(tmp_path / 'new').origin.notes[-1]}\n"
    with caplog.at_level("INFO", logger="vitkit"):
        vitkit.load(tmp_path / "new")
    assert "the head is untrained" in caplog.text
    assert capfd.readouterr().err == ""
