"""Malicious torch.export programs: anything that can run code is rejected before torch reads the archive."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exporters import checkpoint

import vitkit
from vitkit import checkpoints
from vitkit.inference import runtimes
from vitkit.inference.runtimes._program_check import _sizes_by_directory, check

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, SAMPLES = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.canary, "fired"))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid") / "out"
    runtimes.export(checkpoint(), folder, to="program")
    return folder


def members(path: Path) -> dict[str, bytes]:
    """Returns the archive members without their folder prefix."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(f"model/{name}", data)
    return path


def edit_json(part: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        value = json.loads(parts[part])
        edit(value)
        parts[part] = json.dumps(value).encode()

    return change


def first_weight(config: dict[str, Any]) -> dict[str, Any]:
    return next(iter(config["config"].values()))


def nodes(model: dict[str, Any]) -> list[dict[str, Any]]:
    return model["graph_module"]["graph"]["nodes"]


def symbol(model: dict[str, Any]) -> dict[str, Any]:
    return next(iter(model["graph_module"]["graph"]["sym_int_values"].values()))["as_expr"]


def call_spec(model: dict[str, Any]) -> dict[str, Any]:
    return next(entry["signature"] for entry in model["graph_module"]["module_call_graph"] if entry["signature"])


def bomb(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(canary), buffer)
    return buffer.getvalue()


def constant(name: str) -> Callable[[dict[str, Any]], None]:
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    return lambda config: config["config"].update({"evil": entry})


def operator(target: str) -> Callable[[dict[str, bytes]], None]:
    return edit_json(MODEL, lambda model: nodes(model)[0].update(target=target))


def size(text: str) -> Callable[[dict[str, bytes]], None]:
    return edit_json(MODEL, lambda model: symbol(model).update(expr_str=text))


def added(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda parts: parts.update({name: parts[MODEL]})


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a weight that is a pickle": (edit_json(WEIGHTS, lambda c: first_weight(c).update(use_pickle=True)), "plain data"),
    "a weight whose flag is 0": (edit_json(WEIGHTS, lambda c: first_weight(c).update(use_pickle=0)), "as plain data"),
    "a constant that is a pickle": (edit_json(CONSTANTS, constant("tensor_0")), "as plain data"),
    "a custom object": (edit_json(CONSTANTS, constant("custom_obj_0")), "as plain data"),
    "an opaque object": (edit_json(CONSTANTS, constant("opaque_obj_0")), "as plain data"),
    "weights of the old layout": (added("data/weights/model.pt"), "record in the archive: 'data/weights/model.pt'"),
    "a compiled library": (added("data/aotinductor/model/a.so"), "unexpected record"),
    "a second model": (added("models/other.json"), "unexpected record"),
    "a weight from elsewhere": (
        edit_json(WEIGHTS, lambda c: first_weight(c).update(path_name="../../x")),
        "as plain data",
    ),
    "guards": (edit_json(MODEL, lambda m: m.update(guards_code=["f(1)"])), "guards, which are Python code"),
    "an operator of another module": (operator("torch.serialization.os.system"), "the operator"),
    "an operator that maps files": (operator("torch.ops.aten.from_file.default"), "the operator"),
    "an operator of a library": (operator("torch.ops.evil.run.default"), "the operator"),
    "an extension": (operator("#evil"), "the operator"),
    "a size that is Python": (size("__import__('os').system('x')"), "the symbolic size "),
    "a size that is too large to compute": (size("Pow(Integer(9), Integer(99999999))"), "the symbolic size "),
    "a name that is Python": (
        edit_json(MODEL, lambda m: nodes(m)[0].update(name="x = __import__('os')")),
        "is not a valid name",
    ),
    "metadata that is Python": (
        edit_json(MODEL, lambda m: nodes(m)[0].update(metadata={"a": "f(1)"})),
        "is not a valid name",
    ),
    "arguments of a type by name": (
        edit_json(MODEL, lambda m: call_spec(m).update(in_spec=json.dumps([1, {"type": "evil.Type"}]))),
        "the container 'evil.Type'",
    ),
    "arguments that are not JSON": (
        edit_json(MODEL, lambda m: call_spec(m).update(in_spec="(*, *)")),
        "is not valid JSON",
    ),
    "a tensor larger than its bytes": (
        edit_json(WEIGHTS, lambda c: first_weight(c)["tensor_meta"].update(sizes=[{"as_int": 10**12}])),
        "fewer bytes than its tensor",
    ),
    "missing program": (lambda parts: parts.pop(MODEL), "missing"),
    "a program that is not an object": (
        lambda parts: parts.update({MODEL: b"[]"}),
        "does not have the structure that torch.export writes|not a program",
    ),
    "a program that is not JSON": (lambda parts: parts.update({MODEL: b"\xff"}), "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_programs_that_could_run_code_are_rejected(name: str, valid: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    parts = members(valid / "model.pt2")
    change(parts)
    for path in valid.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_archive(tmp_path / "model.pt2", parts)
    with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
        vitkit.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", [SAMPLES, "data/weights/weight_0"])
def test_pickles_are_never_loaded(where: str, valid: Path, tmp_path: Path) -> None:
    """`torch.export.load` (torch 2.15) alone would unpickle these files and write the canary."""
    parts, canary = members(valid / "model.pt2"), tmp_path / "canary"
    parts[where] = bomb(canary)
    if where != SAMPLES:
        edit_json(WEIGHTS, lambda config: first_weight(config).update(use_pickle=True))(parts)
    path = write_archive(tmp_path / "model.pt2", parts)
    with path.open("rb") as file, pytest.raises(checkpoints.CheckpointError, match="pickle"):
        check(file, path.name)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists(), "the canary works"


def test_zip_bomb_is_rejected(valid: Path, tmp_path: Path) -> None:
    parts = members(valid / "model.pt2")
    parts["data/weights/weight_0"] = b"\0" * 50_000_000
    path = write_archive(tmp_path / "model.pt2", parts, zipfile.ZIP_DEFLATED)
    with (
        path.open("rb") as file,
        pytest.raises(checkpoints.CheckpointError, match=r"more bytes than the file|not a \.pt2|directory"),
    ):
        check(file, path.name)


def sizes_by_directory(path: Path) -> dict[str, int]:
    """Returns the sizes that vitkit reads if torch has no `get_record_size`."""
    with path.open("rb") as file:
        reader = torch._C.PyTorchFileReader(file)  # type: ignore[attr-defined]
        return _sizes_by_directory(reader, list(reader.get_all_records()), file)


def test_sizes_equal_those_of_zipfile(valid: Path) -> None:
    path = valid / "model.pt2"
    assert sizes_by_directory(path) == {name: len(data) for name, data in members(path).items()}


def test_ambiguous_directory_is_rejected(valid: Path, tmp_path: Path) -> None:
    path, parts = tmp_path / "model.pt2", members(valid / "model.pt2")
    write_archive(path, parts)
    data, sizes = path.read_bytes(), sizes_by_directory(path)
    # A comment after the directory, also one that looks like an end record; then compressed records.
    for changed in (data[:-2] + b"\4\0" + b"more", data[:-2] + b"\x16\0" + data[-22:-2] + b"\1\0"):
        path.write_bytes(changed)
        with pytest.raises(checkpoints.CheckpointError, match="directory"):
            sizes_by_directory(path)
    with pytest.raises(checkpoints.CheckpointError, match="directory"):
        sizes_by_directory(write_archive(path, parts, zipfile.ZIP_DEFLATED))
    assert sizes_by_directory(write_archive(path, parts)) == sizes


def test_file_that_is_not_an_archive(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", b"\0" * 4096):
        (tmp_path / "model.pt2").write_bytes(data)
        with (
            (tmp_path / "model.pt2").open("rb") as file,
            pytest.raises(checkpoints.CheckpointError, match=r"not a \.pt2"),
        ):
            check(file, "model.pt2")


def test_programs_written_by_vitkit_pass(valid: Path) -> None:
    with (valid / "model.pt2").open("rb") as file:
        check(file, "model.pt2")
    assert not members(valid / "model.pt2")[SAMPLES]
