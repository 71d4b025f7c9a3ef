"""The commands as people type them: output, exit codes, and one clear line for what goes wrong."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.cli import _arguments, command, commands, main
from vitkit.data.processor import Processor
from vitkit.inference import load

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tiny model of three classes, and photos beside it."""
    root = tmp_path_factory.mktemp("commands")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=LABELS)
    checkpoints.save(checkpoint, root / "model")
    (root / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{index}.png")
    (root / "broken.jpg").write_bytes(b"not a picture")
    return root


def test_classify_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(folder / "model"), str(folder / "photos")]) == 0
    out = capsys.readouterr().out
    assert out.count("%") == 9
    for name in (*LABELS, "0.png", "1.png", "2.png"):
        assert name in out


def test_classify_json_lines_and_a_broken_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(folder / "photos" / "0.png"), str(folder / "broken.jpg"), str(folder / "photos" / "1.png")]
    assert main(["classify", str(folder / "model"), *images, "--json", "--top", "2"]) == 2
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["path"] for row in rows] == images
    assert set(rows[0]) == {"path", "predictions"}
    assert [set(prediction) for prediction in rows[0]["predictions"]] == [{"label", "index", "score"}] * 2
    assert rows[0]["predictions"][0]["label"] == LABELS[rows[0]["predictions"][0]["index"]]
    assert set(rows[1]) == {"path", "error"}
    assert rows[1]["error"]["code"] == "not_an_image"
    assert "1 of 3 images could not be read" in captured.err


def test_classify_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(folder / "model"), str(folder / "photos"), str(folder / "broken.jpg"), "--csv"]) == 2
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 10
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert rows[-1]["error"] == "not_an_image"


def test_a_name_that_is_no_text_is_classified(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = (folder / "photos" / "0.png").read_bytes()
    (tmp_path / "a.png").write_bytes(photo)
    odd = os.fsencode(tmp_path) + b"/b\xff.png"
    Path(os.fsdecode(odd)).write_bytes(photo)
    assert main(["classify", str(folder / "model"), str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [os.fsencode(row["path"]) for row in rows] == [os.fsencode(tmp_path) + b"/a.png", odd]


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "option"), [("utf-8", "--json"), ("ascii", "--csv")])
def test_a_name_that_is_no_text_stops_nothing(folder: Path, tmp_path: Path, encoding: str, option: str) -> None:
    photo = (folder / "photos" / "0.png").read_bytes()
    (tmp_path / "a.png").write_bytes(photo)
    odd = os.fsencode(tmp_path) + b"/b\xff.png"
    Path(os.fsdecode(odd)).write_bytes(photo)
    done = subprocess.run(
        [sys.executable, "-m", "vitkit", "classify", str(folder / "model"), str(tmp_path), option],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    if option == "--json":
        rows = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
        assert [os.fsencode(row["path"]) for row in rows] == [os.fsencode(tmp_path) + b"/a.png", odd]


def test_noise_on_standard_input_is_an_image_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(range(256)) * 10)))
    assert main(["classify", str(folder / "model"), "-", "--json"]) == 1  # nothing was done
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not_an_image"


@pytest.mark.parametrize("kind", ["list", "image"])
def test_standard_input_is_a_list_or_an_image(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = folder / "photos" / "0.png"
    given = f"{photo}\n\n".encode() if kind == "list" else photo.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert main(["classify", str(folder / "model"), "-", "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["path"] == (str(photo) if kind == "list" else "-")
    assert len(row["predictions"]) == 3


@pytest.mark.parametrize(
    ("content", "before"),
    [
        pytest.param(b"\xef\xbb\xbf{images}", 0, id="byte order mark"),
        pytest.param(b"{folder}/\xff\x1b[31m.png\0{images}\0", 1, id="NUL bytes"),
        pytest.param(b"{images}\r\n", 0, id="CRLF"),
        pytest.param(b"nothing\xe9.png\nBM \x1b[2J.png\n\xc2\x85.png\n{images}", 3, id="any bytes"),
        pytest.param(b"utf-16", 0, id="UTF-16"),
    ],
)
def test_lists_on_standard_input_bear_any_bytes(
    folder: Path, content: bytes, before: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [str(folder / "photos" / f"{index}.png") for index in range(2)]
    mark = b"\0" if b"\0" in content else b"\r\n" if b"\r\n" in content else b"\n"
    joined = mark.join(map(os.fsencode, images))
    data = "\n".join(images).encode("utf-16") if content == b"utf-16" else content.replace(b"{images}", joined)
    data = data.replace(b"{folder}", os.fsencode(folder))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["classify", str(folder / "model"), "-", "--json", "--precision", "float32"]) == (2 if before else 0)
    captured = capfd.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["path"] for row in rows[before:]] == images
    assert ["error" in row for row in rows] == [True] * before + [False] * 2
    if before:
        assert os.fsencode(rows[0]["path"]) == data.split(mark)[0]
    assert not any(
        (ord(each) < 32 and each != "\n") or ord(each) in range(127, 160) for each in captured.out + captured.err
    )


def test_a_closed_or_empty_standard_input_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, words in ((None, "is closed"), (io.TextIOWrapper(io.BytesIO(b" \n")), "is empty")):
        monkeypatch.setattr(sys, "stdin", given)
        assert main(["classify", str(folder / "model"), "-"]) == 1
        error = capsys.readouterr().err
        assert error == f"vitkit: standard input {words}; expected an image, or one path per line\n"


def test_folders_and_globs_without_images_stop_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.mkdir()
    odd.mkdir()
    os.mkfifo(odd / "pipe")
    (odd / "gone").symlink_to("nowhere")
    (odd / "photos").symlink_to(folder / "photos")
    (odd / "loop").symlink_to(odd)
    given = [empty, tmp_path / "*.png", odd, folder / "photos" / "0.png"]
    assert main(["classify", str(folder / "model"), *map(str, given), "--json", "--precision", "float32"]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["path"], row.get("error", {}).get("message")) for row in rows] == [
        (str(empty), "the folder has no image files"),
        (str(tmp_path / "*.png"), "no file matches this pattern"),
        (str(odd / "gone"), "the path is a link to a file that does not exist"),
        *((str(odd / "photos" / f"{index}.png"), None) for index in range(3)),
        (str(odd / "pipe"), "the path is a named pipe, not a file"),
        (str(given[-1]), None),
    ]
    assert main(["classify", str(folder / "model"), str(empty)]) == 1
    error = capsys.readouterr().err
    assert error == f"vitkit: 1 of 1 images could not be read: {empty}: the folder has no image files\n"


def test_control_characters_of_names_and_labels_reach_neither_terminal_nor_csv(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\x1b[31m\r\n\x9bfake,1,cat,0,1.0,.png"
    (tmp_path / name).write_bytes((folder / "photos" / "0.png").read_bytes())
    (tmp_path / "\x1b[2Jbroken.png").write_bytes(b"oops")
    for options in ([], ["--csv"], ["--json"]):
        arguments = [str(folder / "model"), str(tmp_path), *options, "--precision", "float32"]
        assert main(["classify", *arguments]) == 2
        captured = capsys.readouterr()
        assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))
        if options == ["--csv"]:
            rows = list(csv.reader(io.StringIO(captured.out)))
            assert len(rows) == 1 + 1 + 3
            assert all(len(row) == 6 for row in rows)
        if options == ["--json"]:
            assert Path(json.loads(captured.out.splitlines()[1])["path"]).name == name
    odd = tmp_path / "m\x1b[31m[bold]"
    odd.symlink_to(folder / "model")
    for words in (["inspect", str(odd)], ["inspect", str(odd), "--json"]):
        assert main(words) == 0
        assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
    for words in (["inspect", str(tmp_path / name)], ["evaluate", str(folder / "model"), "--data", f"folder:{name}"]):
        assert main(words) == 1
        assert capsys.readouterr().err[:-1].isprintable()


def test_huge_image_sizes_are_refused_before_memory_is_allocated(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, image = str(folder / "model"), str(folder / "photos" / "0.png")
    for words in (
        ["classify", model, image, "--image-size", "1000000"],
        ["convert", model, str(tmp_path / "x"), "--to", "timm", "--image-size", "1000000"],
        ["export", model, "--to", "program", "--image-size", "1000000"],
    ):
        assert main(words) == 1
        assert (
            "image_size is 1000000; each side must be at least 1 pixel, and the area at most 4096 x 4096"
            in capsys.readouterr().err
        )


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """Training and validation images of three classes, one of which is broken in either."""
    for split in ("train", "val"):
        for label in LABELS:
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for index in range(3):
                photo = folder / "photos" / f"{index}.png"
                (tmp_path / "data" / split / label / photo.name).write_bytes(photo.read_bytes())
        (tmp_path / "data" / split / "green" / "1.png").write_bytes(b"oops")
    return tmp_path / "data"


def test_an_unreadable_image_ends_neither_evaluate_nor_finetune(
    folder: Path, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["evaluate", str(folder / "model"), "--data", f"folder:{broken}", "--precision", "float32"]
    assert main([*evaluate, "--out", str(broken.parent / "report")]) == 2
    captured = capsys.readouterr()
    assert "8 images" in captured.out
    assert captured.err.splitlines()[0].startswith("vitkit: image 4: green/1.png: the file is not an image")
    assert captured.err.splitlines()[-1] == "vitkit: 1 image could not be read and left out"
    saved = json.loads((broken.parent / "report" / "evaluation.json").read_text())
    assert (saved["images"], len(saved["unreadable"]), saved["metrics"]["top1.images"]) == (8, 1, 8)
    assert "green/1.png: the file is not an image" in (broken.parent / "report" / "report.html").read_text()
    monkeypatch.setattr("vitkit.data.unreadable.TOLERATED", 0)
    assert main([*evaluate, "--max-unreadable", "0.1"]) == 1
    assert "1 of 9 images could not be read, but the limit is 10%; repair or remove them" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*evaluate, "--max-pixels", "1999"]) == 1
    assert "none of 9 images could be read; the first error is: blue/0.png: the image has" in capsys.readouterr().err
    train = ["finetune", str(folder / "model"), "--data", f"folder:{broken}", "--batch-size", "9", "--steps", "2"]
    assert main([*train, "--out", str(broken.parent / "run"), "--max-pixels", "1999"]) == 1
    assert "no training image can be read; the first error is: blue/0.png" in capsys.readouterr().err
    assert not (broken.parent / "run").exists()
    assert main([*train, "--out", str(broken.parent / "run")]) == 0
    error = capsys.readouterr().err
    assert "vitkit: 2 images could not be read: training image 4: green/1.png: " in error
    assert "validation image 4: green/1.png: " in error


def test_embed_json_and_npz(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(folder / "model"), str(folder / "photos")]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(row["embedding"]) for row in rows] == [32] * 3
    out = tmp_path / "features.npz"
    assert main([*arguments, str(folder / "broken.jpg"), "--out", str(out)]) == 2
    with np.load(out) as saved:
        assert [Path(path).name for path in saved["paths"]] == ["0.png", "1.png", "2.png"]
        np.testing.assert_allclose(saved["embeddings"], [row["embedding"] for row in rows], atol=1e-6)
    assert main([*arguments, "--out", str(tmp_path / "features.txt")]) == 1
    assert main(["embed", str(folder / "model"), str(folder / "broken.jpg"), "--out", str(tmp_path / "none.npz")]) == 1
    assert not (tmp_path / "none.npz").exists()


def test_convert_and_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(folder / "model"), str(tmp_path / "timm"), "--to", "timm"]) == 0
    assert "timm" in capsys.readouterr().out
    assert main(["convert", str(folder / "model"), str(tmp_path / "timm"), "--to", "timm"]) == 1
    assert "exists" in capsys.readouterr().err
    before = checkpoints.load(folder / "model").model.state_dict()
    after = checkpoints.load(tmp_path / "timm").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_models_and_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vit-b/", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"]: row["parameters"] for row in rows}["vit-b/16"] == 86_567_656
    assert main(["inspect", "vit-b/16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == 86_567_656
    assert facts["FLOPs per image"] == pytest.approx(35.1e9, rel=0.01)
    assert main(["inspect", str(folder / "model")]) == 0
    out = capsys.readouterr().out
    for word in ("parameters", "FLOPs per image", "preprocessing", "labels", "origin", "red"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clasify"], "unknown command 'clasify'; did you mean 'classify'?"),
        (["classify", "{folder}/model"], "give at least one image"),
        (["classify", "{folder}/model", "{folder}/photos", "--json", "--csv"], "choose either --json or --csv"),
        (["classify", "{folder}/model", "{folder}/photos", "--top", "0"], "--top is 0"),
        (["classify", "{folder}/nothing", "{folder}/photos"], "nothing"),
        (["classify", "{folder}/model", "{folder}/*.webp"], "no file matches"),
        (["convert", "{folder}/model", "{folder}/x", "--to", "keras"], "unknown format 'keras'"),
        (["embed", "{folder}/model", "{folder}/photos", "--out", "{folder}/no/x.npz"], "does not exist"),
        (
            ["classify", "{folder}/model", "{folder}/photos", "--device", "gpu"],
            "the device 'gpu' is not available on this machine",
        ),
        (["models", "resnext"], "no architecture name contains 'resnext'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([argument.format(folder=folder) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert error.startswith("vitkit: ")


def test_an_architecture_is_not_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "vit-b/16", str(folder / "photos")]) == 1
    assert "architecture" in capsys.readouterr().err


def test_no_command_and_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in commands():
        assert name in out
    assert max(map(len, out.splitlines())) <= 80
    with pytest.raises(SystemExit):
        main(["help", "finetune"])
    assert "usage: vitkit finetune" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vitkit ")


@pytest.mark.parametrize("name", commands())
def test_every_command_documents_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    doc = command(name).__doc__ or ""
    assert doc.splitlines()[0].endswith(".")
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert doc.splitlines()[0] in capsys.readouterr().out
    for option in _arguments.options(command(name)).values():
        assert option.help, f"`vitkit {name}` does not document {option.name}"


def test_the_page_of_commands_is_what_they_say() -> None:
    root = Path(__file__).parents[2]
    script = "import sys; sys.path.insert(0, 'docs'); import generate; sys.stdout.write(generate.page())"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    written = (root / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == done.stdout, "the help has changed: run `make docs`"


def test_embed_blocks_json_and_npz(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "model")
    arguments = ["embed", model, str(folder / "photos"), "--blocks=-1", "--precision", "float32"]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    classifier = load(model)
    images = classifier.processor([row["path"] for row in rows])
    (tokens,) = classifier.features(images, blocks=1).taps
    np.testing.assert_allclose([row["blocks"]["0"] for row in rows], tokens[:, 0].detach(), atol=1e-5)
    assert main([*arguments, "--as-maps", "--out", str(tmp_path / "e.npz")]) == 0
    assert "outputs of 1 block" in capsys.readouterr().out
    (maps,) = classifier.features(images, blocks=1, as_maps=True).taps
    with np.load(tmp_path / "e.npz") as saved:
        assert sorted(saved) == ["block_0", "embeddings", "paths"]
        np.testing.assert_allclose(saved["block_0"], maps.detach(), atol=1e-5)
        np.testing.assert_allclose(saved["embeddings"], [row["embedding"] for row in rows], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "9"], "there is no block 9"),
        (["--blocks", "a"], "--blocks is 'a'; expected numbers"),
        (["--as-maps"], "--as-maps needs --blocks"),
        (["--blocks", "0", "--precision", "int8"], "choose one of the precisions auto, float32"),
        (["--blocks", "0", "--merge-tokens", "2"], "not available with token merging"),
    ],
)
def test_embed_rejects_wrong_blocks(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(folder / "model"), str(folder / "photos"), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["classify", "embed"])
def test_limits_of_image_files(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    image = folder / "photos" / "0.png"
    arguments = [name, str(folder / "model"), str(image), *(["--json"] if name == "classify" else [])]
    size = image.stat().st_size
    for options, code in (
        ([], None),
        (["--max-pixels", "2000", "--max-bytes", str(size)], None),
        (["--max-pixels", "1999"], "too_many_pixels"),
        (["--max-bytes", str(size - 1)], "too_large"),
    ):
        assert main([*arguments, *options]) == (1 if code else 0)
        row = json.loads(capsys.readouterr().out)
        assert row.get("error", {}).get("code") == code
    assert main([*arguments, "--max-pixels", "0"]) == 1
    assert "--max-pixels is 0; it must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_images_of_large_cameras(folder: Path, tmp_path: Path) -> None:
    """A JPEG of 102 and a PNG of 61 megapixels are classified with the default limits, in bounded memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured on Linux")
    rows, columns = 8736, 11648
    steps = [(np.arange(count) * 256 // count).astype(np.uint8) for count in (rows, columns)]
    scene = np.stack([np.add.outer(*steps), np.subtract.outer(*steps), np.maximum.outer(*steps)], axis=-1)
    Image.fromarray(scene).save(tmp_path / "large.jpg")
    Image.fromarray(scene[:6336, :9504]).save(tmp_path / "large.png", compress_level=1)
    code = (
        "import sys; from vitkit.cli import main; code = main(sys.argv[1:]); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))); sys.exit(code)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "classify", str(folder / "model"), str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *lines, peak = done.stdout.split("\n", 2)
    assert all("predictions" in json.loads(line) for line in lines)
    memory = int(peak.split()[1]) * 1024
    print(f"peak memory: {memory / 1e6:.0f} MB")
    # The images, and 600 MB for torch and the model.
    assert memory < 17 * rows * columns + 600_000_000
