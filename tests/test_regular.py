"""Named pipes, devices and folders in place of a file are errors of one sentence; nothing waits for a writer."""

import ast
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import vitkit
from vitkit import checkpoints, data, models, regular
from vitkit.checkpoints.heads import attach
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.pretraining import load_dalle_encoder
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.evaluation import real, segmentation, subset
from vitkit.images import ImageError, open_image
from vitkit.models import vit
from vitkit.training import RunFolder, events
from vitkit.training.checkpointing import files

ROOT = Path(vitkit.__file__).parent
# Calls that open a file by its path. In text form: the call without its arguments.
OPENERS = {
    "open", "os.open", "np.load", "np.memmap", "np.fromfile", "zipfile.ZipFile", "tarfile.open", "Image.open",
    "safe_open", "load_file", "torch.load", "onnxruntime.InferenceSession", "mmap.mmap", "torch.export.load",
    "gzip.open",
}  # fmt: skip
METHODS = {"read_text", "read_bytes", "open", "compile_model", "read_model"}
CHECKED = "checkpoints.containers.open_weights has checked the file"
ALLOWED = {
    "regular.py": "the one place that opens files",
    "atomic.py": "new files, and folders to flush them",
    "checkpoints/containers/npz.py": CHECKED,
    "checkpoints/containers/pickled.py": CHECKED,
    "checkpoints/containers/safetensors.py": CHECKED,
    "checkpoints/containers/msgpack.py": "maps a file that is open",
    "inference/runtimes/onnx.py": "load_export has checked every file of the folder",
    "inference/runtimes/openvino.py": "load_export has checked every file of the folder",
    "inference/runtimes/program.py": "reads a file that is open",
    "inference/runtimes/_program_check.py": "reads a file that is open",
    "training/checkpointing/files.py": "the digest of every file was computed before",
    "training/checkpointing/_storage.py": "the digest of every file was computed before",
    "checkpoints/formats/timm/_architectures.py": "a file of the package",
    "images/files.py": "wraps a descriptor of regular.open_descriptor",
    "images/turbo.py": "bytes in memory",
    "evaluation/segmentation.py": "bytes in memory",
    "data/sources/_tar.py": "reads a file that is open",
    "data/sources/digits.py": "a file of the package",
    "data/sources/parquet.py": "any file system; the files of the local one are checked",
    "data/labels.py": "files of the package",
    "__init__.py": "a file of the package",
    "report/gallery.py": "a file of the package",
    "report/page.py": "a file of the package",
    "plugins/new.py": "a file of the package",
    "plugins/contracts/explanation.py": "files that the check has written",
    "jax/npz.py": "reads a file that is open",
    "cli/_streams.py": "the null device",
}  # fmt: skip


def opened_by_path(source: str) -> Iterator[str]:
    """Yields the calls in a source that open a file for reading by its path."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if any(mode.startswith(("w", "a", "x")) for mode in modes):
            continue
        if name in OPENERS or method in METHODS:
            yield name


def test_files_are_opened_in_one_place() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): list(opened_by_path(path.read_text(encoding="utf-8")))
        for path in ROOT.rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith("bench/")  # reads the images that it has written
    }
    assert {name: calls for name, calls in found.items() if calls and name not in ALLOWED} == {}
    assert [name for name in ALLOWED if not found[name] and name != "regular.py"] == []


def test_the_check_finds_every_kind_of_call() -> None:
    code = "open(p); p.open('rb'); p.read_text(); np.load(p); tarfile.open(p); zipfile.ZipFile(p); p.open('w'); f(p)"
    assert len(list(opened_by_path(code))) == 6


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Ends a test that waits for the writer of a named pipe."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits for a named pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regular")
    torch.manual_seed(0)
    made = checkpoints.Checkpoint(model=models.build(vit.TINY), processor=Processor.squash(32), labels=tuple("abcde"))
    checkpoints.save(made, root / "model")
    return root / "model"


SOURCES = ["x.csv", "x.jsonl", "x.parquet", "x.tar", "images.txt"]
KINDS = {"x.csv": "csv", "x.jsonl": "jsonl", "x.parquet": "parquet", "x.tar": "webdataset", "images.txt": "list"}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_reject_named_pipes_and_folders(
    tmp_path: Path, model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / name)
    locations = [f"{KINDS[name]}:{tmp_path / name}"]
    if name in ("x.parquet", "x.tar"):
        locations.append(f"{KINDS[name]}:{tmp_path}")
    for location in locations:
        with pytest.raises(ValueError, match=rf"{name}'? is a named pipe, not a regular file"):
            data.splits(location)
    assert main(["evaluate", str(model), "--data", locations[0], "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "is a named pipe, not a regular file" in err
    assert len(err.splitlines()) == 2  # the first is a note about the head
    if name != "x.parquet" and name != "x.tar":
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name}' is a folder, not a regular file; expected {KINDS[name]}:FILE"):
            data.splits(f"{KINDS[name]}:{tmp_path / name}")


def test_files_that_a_table_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    shutil.copy(Path(__file__), tmp_path / "b.png")
    (tmp_path / "x.csv").write_text("path,label\na.png,1\nb.png,0\n")
    source = data.splits(f"csv:{tmp_path / 'x.csv'}")["all"]
    assert source.skipped == ("x.csv, line 2: the image file 'a.png' is a named pipe, not a regular file",)
    (tmp_path / "list.txt").write_text("b.png\na.png\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 2: the image file 'a\.png' is a named pipe"):
        data.splits(f"list:{tmp_path / 'list.txt'}", needs_labels=False)
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(ValueError, match=r"classes\.txt is a named pipe"):
        data.splits(f"csv:{tmp_path / 'x.csv'}")


@pytest.mark.parametrize(
    "name", ["x.npz", "x.safetensors", "x.pth", "x.bin", "x.msgpack", "x.pkl", "x.index.json", "x.ckpt"]
)
def test_weights_files_reject_named_pipes(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(checkpoints.CheckpointError, match=r"named pipe|not a weights file"):
        vitkit.load(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_folders_with_a_named_pipe(tmp_path: Path, model: Path, name: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    os.mkfifo(tmp_path / "model" / name)
    readers = (vitkit.load, vitkit.ViTForImageClassification.from_pretrained, vitkit.ViTImageProcessor.from_pretrained)
    for read in readers[::2] if name[0] == "p" else readers[:2]:
        with pytest.raises(ValueError, match=rf"{name}.* named pipe") as caught:
            read(tmp_path / "model")
        assert len(str(caught.value).splitlines()) == 1


def calls(root: Path) -> dict[str, Callable[[Path], object]]:
    """Readers of single files that a user names, each with the file to read."""
    return {
        "image": open_image,
        "subset": lambda path: subset.read(path, ("a", "b")),
        "real": real.read,
        "mask": segmentation.read_mask,
        "head": lambda path: attach(models.build(vit.TINY), path, {}),
        "dalle": load_dalle_encoder,
        "log": events.read,
        "manifest": lambda path: files.read_manifest(path.parent),
        "config of a run": lambda path: RunFolder(path.parent).run(),
        "json": read_json,
    }


@pytest.mark.parametrize("name", calls(Path()))
def test_single_files(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    path = folder / {"manifest": "MANIFEST.json", "config of a run": "config.json", "dalle": "encoder.pkl"}.get(
        name, "x.npz"
    )
    os.mkfifo(path)
    with pytest.raises((ValueError, ImageError), match="named pipe"):
        calls(tmp_path)[name](path)


def test_commands_that_read_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert main(["train", "--from", str(tmp_path / "config.json"), "--out", str(tmp_path / "run")]) == 1
    assert "config.json is a named pipe, not a regular file" in capsys.readouterr().err
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "MANIFEST.json").write_text(json.dumps({"step": 1, "size": 1, "sha256": ""}))
    os.mkfifo(tmp_path / "step-00000001" / files._FULL)
    assert not files.is_complete(tmp_path / "step-00000001")


def test_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("grün\r\n".encode())
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    assert regular.read_text(tmp_path / "link") == "grün\n"
    assert regular.problem(tmp_path / "link") == ""
    assert regular.problem(tmp_path / "c") == "does not exist"
    assert regular.problem("/dev/zero") == "is a device, not a regular file"
    assert "cannot be opened" in regular.problem("a\0b")
    with pytest.raises(ValueError, match=r"b\.txt is not UTF-8 text"):
        regular.read_text(tmp_path / "b.txt")
    with pytest.raises(FileNotFoundError):
        regular.open_regular(tmp_path / "c")


def test_a_pipe_that_replaces_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe")
    status = os.stat(tmp_path / "a")
    monkeypatch.setattr(regular.os, "stat", lambda path: status)
    with pytest.raises(regular.NotRegularError, match="is a named pipe"):
        regular.open_regular(tmp_path / "pipe")
