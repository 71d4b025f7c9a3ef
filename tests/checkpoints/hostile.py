"""Generators of malicious or invalid checkpoints that run code or exhaust memory; all of them must be rejected.

Each entry of `CORPUS` writes into an empty folder and returns the path to load. Entries with a gadget create the file
`canary` in that folder if their code runs.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_pickles import CORPUS as PICKLES

CORPUS: dict[str, Callable[[Path], Path]] = dict(PICKLES)


class Gadget:
    """Creates the canary file when unpickled."""

    def __init__(self, folder: Path):
        self.canary = str(folder / "canary")

    def __reduce__(self) -> Any:
        return open, (self.canary, "w")


class Shell(Gadget):
    """Runs a shell command when unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def entry(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Registers a generator under its name."""
    CORPUS[make.__name__.strip("_")] = make
    return make


def state() -> dict[str, torch.Tensor]:
    """Returns tensors with names that a format accepts."""
    return {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4), "cls_token": torch.zeros(1, 1, 8)}


@entry
def _pickle_gadget_in_pth(folder: Path) -> Path:
    torch.save(Gadget(folder), folder / "x.pth")
    return folder / "x.pth"


@entry
def _pickle_gadget_next_to_tensors(folder: Path) -> Path:
    torch.save({"model": state(), "epoch": Shell(folder)}, folder / "x.pt")
    return folder / "x.pt"


@entry
def _pickle_gadget_in_huggingface_folder(folder: Path) -> Path:
    torch.save({"vit.x": Shell(folder)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    return folder


@entry
def _pickle_gadget_in_legacy_file(folder: Path) -> Path:
    torch.save({"model": Shell(folder)}, folder / "x.pth", _use_new_zipfile_serialization=False)
    return folder / "x.pth"


@entry
def _pickle_gadget_alone(folder: Path) -> Path:
    (folder / "x.ckpt").write_bytes(pickle.dumps(Gadget(folder)))
    return folder / "x.ckpt"


@entry
def _pickle_gadget_in_old_protocol(folder: Path) -> Path:
    (folder / "x.bin").write_bytes(f"cos\nsystem\n(S'touch {folder / 'canary'}'\ntR.".encode())
    return folder / "x.bin"


@entry
def _pickle_of_eval(folder: Path) -> Path:
    (folder / "x.bin").write_bytes(f'c__builtin__\neval\n(S\'open("{folder / "canary"}", "w")\'\ntR.'.encode())
    return folder / "x.bin"


@entry
def _pickle_gadget_in_legacy_tar(folder: Path) -> Path:
    with tarfile.open(folder / "x.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Shell(folder))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder / "x.pth"


@entry
def _pickle_gadget_in_torchscript(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("x/version", "3\n")
        archive.writestr("x/data.pkl", pickle.dumps(Shell(folder)))
        archive.writestr("x/constants.pkl", pickle.dumps(Shell(folder)))
        archive.writestr("x/code/__torch__.py", "op_version_set = 1\n")
    return folder / "x.pt"


@entry
def _pickle_gadget_as_npz(folder: Path) -> Path:
    torch.save(Shell(folder), folder / "x.npz")
    return folder / "x.npz"


@entry
def _pth_of_one_number_expanded(folder: Path) -> Path:
    huge = {"patch_embed.proj.weight": torch.zeros(1).expand(2**30, 3, 16, 16)}
    torch.save(huge, folder / "x.pth")
    return folder / "x.pth"


@entry
def _pth_of_sparse_tensor(folder: Path) -> Path:
    indices = torch.tensor([[0], [0]])
    sparse = torch.sparse_coo_tensor(indices, torch.ones(1), (10**6, 10**6), check_invariants=True)
    torch.save({"patch_embed.proj.weight": sparse}, folder / "x.pth")
    return folder / "x.pth"


@entry
def _pth_deflated_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(256 << 20))
        archive.writestr("x/version", "3\n")
    return folder / "x.pth"


@entry
def _pth_truncated(folder: Path) -> Path:
    torch.save(state(), folder / "x.pth")
    data = (folder / "x.pth").read_bytes()
    (folder / "x.pth").write_bytes(data[: len(data) // 2])
    return folder / "x.pth"


@entry
def _pth_of_a_list(folder: Path) -> Path:
    torch.save([torch.zeros(2)], folder / "x.pth")
    return folder / "x.pth"


@entry
def _pth_of_deeply_nested_dicts(folder: Path) -> Path:
    value: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(50):
        value = {"model": value}
    torch.save(value, folder / "x.pth")
    return folder / "x.pth"


def _empty(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / f"x{suffix}").write_bytes(b"")
        return folder / f"x{suffix}"

    return make


def _noise(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / f"x{suffix}").write_bytes(np.random.default_rng(0).bytes(4096))
        return folder / f"x{suffix}"

    return make


for _suffix in (".safetensors", ".npz", ".pth", ".bin"):
    CORPUS[f"empty {_suffix}"] = _empty(_suffix)
    CORPUS[f"noise {_suffix}"] = _noise(_suffix)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Returns an array file with this header text."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def header(descr: str = "'<f4'", shape: str = "(2,)", order: str = "False") -> str:
    """Returns the text of an array header."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def archive(folder: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    """Writes an archive of these members after a valid ViT array."""
    with zipfile.ZipFile(folder / "x.npz", "w", compression) as file:
        file.writestr("embedding/kernel.npy", npy(header(shape="(4, 4, 3, 8)"), bytes(4 * 4 * 4 * 3 * 8)))
        for name, data in members:
            file.writestr(name, data)
    return folder / "x.npz"


@entry
def _npz_bomb(folder: Path) -> Path:
    """One megabyte that unpacks to 1024, with a valid name and header."""
    # Compressing a gigabyte takes seconds, so one block is compressed and repeated.
    compress = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start, block = npy(header(shape="(1024, 262144)")), bytes(1 << 20)
    first, each = (compress.compress(data) + compress.flush(zlib.Z_FULL_FLUSH) for data in (start, block))
    stream, checksum = first + each * 1024 + compress.flush(), zlib.crc32(start)
    for _ in range(1024):
        checksum = zlib.crc32(block, checksum)
    name = b"head/kernel.npy"
    member = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, checksum, len(stream), len(start) + (1 << 30), len(name), 0)
    local = b"PK\3\4" + member + name + stream
    directory = b"PK\1\2" + struct.pack("<H", 20) + member + bytes(14) + name
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(directory), len(local), 0)
    (folder / "x.npz").write_bytes(local + directory + end)
    return folder / "x.npz"


NPZ: dict[str, list[tuple[str, bytes]]] = {
    "objects": [("head/bias.npy", npy(header("'|O'"), pickle.dumps([1, 2])))],
    "objects in a record": [("head/bias.npy", npy(header("[('a', '|O')]"), pickle.dumps([1, 2])))],
    "records": [("head/bias.npy", npy(header("[('a', '<f4')]"), bytes(8)))],
    "texts": [("head/bias.npy", npy(header("'<U4'"), bytes(32)))],
    "member above": [("../head.npy", npy(header(), bytes(8)))],
    "member at the root": [("/etc/head.npy", npy(header(), bytes(8)))],
    "member with a backslash": [("a\\..\\head.npy", npy(header(), bytes(8)))],
    "member that is not an array": [("head.py", b"print('hello')")],
    "header shape too large": [("head/bias.npy", npy(header(shape="(1000000000,)"), bytes(8)))],
    "header shape too small": [("head/bias.npy", npy(header(shape="(1,)"), bytes(8)))],
    "negative shape": [("head/bias.npy", npy(header(shape="(-2,)"), bytes(8)))],
    "shape that overflows": [("head/bias.npy", npy(header(shape="(4611686018427387904, 4)"), bytes(8)))],
    "shape of text": [("head/bias.npy", npy(header(shape="'2'"), bytes(8)))],
    "shape of booleans": [("head/bias.npy", npy(header(shape="(True, 2)"), bytes(8)))],
    "shape of many axes": [("head/bias.npy", npy(header(shape=f"({'1, ' * 60}2)"), bytes(8)))],
    "header of code": [("head/bias.npy", npy("__import__('os').system('touch canary')", bytes(8)))],
    "header nested": [("head/bias.npy", npy("(" * 5000 + ")" * 5000, bytes(8)))],
    "header long": [("head/bias.npy", npy(header() + " " * 60_000, bytes(8)))],
    "version 9": [("head/bias.npy", npy(header(), bytes(8), b"\x09\x00"))],
    "no magic": [("head/bias.npy", b"hello world, I am an array")],
    "nothing": [("head/bias.npy", b"")],
    "many members": [(f"x{index}.npy", b"") for index in range(20_001)],
}


def _npz(members: list[tuple[str, bytes]]) -> Callable[[Path], Path]:
    return lambda folder: archive(folder, members)


for _name, _members in NPZ.items():
    CORPUS[f"npz {_name}"] = _npz(_members)


@entry
def _npz_duplicate_member(folder: Path) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return archive(folder, [("cls.npy", npy(header(), bytes(8))), ("cls.npy", npy(header(), bytes(8)))])


@entry
def _npz_truncated(folder: Path) -> Path:
    path = archive(folder, [("cls.npy", npy(header(), bytes(8)))])
    path.write_bytes(path.read_bytes()[:-30])
    return path


@entry
def _npz_invalid_directory(folder: Path) -> Path:
    """The zip directory and the header of a member disagree about its size."""
    path = archive(folder, [("cls.npy", npy(header(), bytes(8)))])
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<LL", 100_000, 100_000)
    path.write_bytes(bytes(data))
    return path


@entry
def _npz_encrypted(folder: Path) -> Path:
    path = archive(folder, [("cls.npy", npy(header(), bytes(8)))])
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    return path


def tensors(folder: Path, head: Any, data: bytes = bytes(64), length: int | None = None) -> Path:
    """Writes a safetensors file with this header, given as bytes or as a JSON value."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (folder / "x.safetensors").write_bytes(size + text + data)
    return folder / "x.safetensors"


def one(start: Any = 0, stop: Any = 64, shape: Any = (16,), dtype: Any = "F32") -> dict[str, Any]:
    """Returns the header entry of a tensor."""
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, stop]}


SAFETENSORS: dict[str, Any] = {
    "overlap": {"a": one(0, 32, (8,)), "b": one(16, 64, (12,))},
    "same bytes twice": {"a": one(), "b": one()},
    "gap": {"a": one(0, 16, (4,)), "b": one(32, 64, (8,))},
    "gap at the start": {"a": one(32, 64, (8,))},
    "bytes left over": {"a": one(0, 32, (8,))},
    "beyond the file": {"a": one(0, 128, (32,))},
    "negative offsets": {"a": one(-64, 0)},
    "offsets reversed": {"a": one(64, 0)},
    "offsets of fractions": {"a": one(0.0, 64.0)},
    "offsets of booleans": {"a": one(False, 64)},
    "shape and bytes disagree": {"a": one(shape=(17,))},
    "another type": {"a": one(dtype="F64")},
    "no such type": {"a": one(dtype="F31")},
    "type of a list": {"a": one(dtype=["F32"])},
    "shape that overflows": {"a": one(shape=(2**62, 2**62))},
    "negative shape": {"a": one(shape=(-4, -4))},
    "shape of many axes": {"a": one(shape=(1,) * 100 + (16,))},
    "entry of a number": {"a": 1},
    "entry with more": {"a": one() | {"code": "import os"}},
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": one()},
    "metadata of a list": {"__metadata__": [], "a": one()},
    "no tensors": {},
    "a list": [1, 2],
    "duplicate key": b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":{}}',
    "duplicate field": b'{"a":{"dtype":"F32","dtype":"F16","shape":[16],"data_offsets":[0,64]}}',
    "nan": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,64]}}',
    "number of a million digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,64]}}',
    "nested": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "not text": b"{\xff\xfe}",
    "not JSON": b"{'a': 1}",
    "spaces first": b'  {"a": 1}',
}


def _safetensors(head: Any) -> Callable[[Path], Path]:
    return lambda folder: tensors(folder, head)


for _name, _head in SAFETENSORS.items():
    CORPUS[f"safetensors {_name}"] = _safetensors(_head)
CORPUS["safetensors header beyond the file"] = lambda folder: tensors(folder, {"a": one()}, length=10**6)
CORPUS["safetensors header of an exabyte"] = lambda folder: tensors(folder, {"a": one()}, length=2**63)
CORPUS["safetensors header of 64 MB"] = lambda folder: tensors(folder, b"{" + b" " * (64 << 20) + b"}")
CORPUS["safetensors truncated"] = lambda folder: tensors(folder, {"a": one()}, data=bytes(10))


def _sharded(shard: str, prepare: Callable[[Path], Any] = lambda folder: None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model").mkdir()
        inside = tensors(folder, {"a": one()})
        (folder / "model" / "good.safetensors").write_bytes(inside.read_bytes())
        prepare(folder)
        index = {"weight_map": {"a": shard.replace("FOLDER", str(folder))}}
        (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder / "model"

    return make


def _link(folder: Path) -> None:
    (folder / "model" / "link.safetensors").symlink_to(folder / "x.safetensors")


def _gadget(folder: Path) -> None:
    torch.save({"a": Shell(folder)}, folder / "model" / "evil.bin")
    torch.save({"a": Shell(folder)}, folder / "model" / "evil.safetensors")


CORPUS["index goes up"] = _sharded("../x.safetensors")
CORPUS["index is absolute"] = _sharded("FOLDER/x.safetensors")
CORPUS["index goes into a folder"] = _sharded("sub/x.safetensors")
CORPUS["index has a backslash"] = _sharded("..\\x.safetensors")
CORPUS["index follows a link"] = _sharded("link.safetensors", _link)
CORPUS["index names a pickle"] = _sharded("evil.bin", _gadget)
CORPUS["index names a disguised pickle"] = _sharded("evil.safetensors", _gadget)
CORPUS["index names an empty string"] = _sharded("")
CORPUS["index has a zero byte"] = _sharded("good.safetensors\0")
CORPUS["index names a missing file"] = _sharded("missing.safetensors")
CORPUS["index names itself"] = _sharded("model.safetensors.index.json")


def _index(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tensors(folder, {"a": one()}).rename(folder / "good.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)
        return folder

    return make


CORPUS["index of another tensor"] = _index('{"weight_map": {"b": "good.safetensors"}}')
CORPUS["index that hides a tensor"] = _index('{"weight_map": {}}')
CORPUS["index of a list"] = _index('{"weight_map": ["good.safetensors"]}')
CORPUS["index of numbers"] = _index('{"weight_map": {"a": 1}}')
CORPUS["index of many files"] = _index(json.dumps({"weight_map": {f"a{i}": f"{i}.safetensors" for i in range(2000)}}))

CONFIGS: dict[str, bytes] = {
    "duplicate keys": b'{"model_type": "vit", "hidden_size": 64, "hidden_size": 65}',
    "nested": b'{"model_type": "vit", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "nan": b'{"model_type": "vit", "layer_norm_eps": NaN}',
    "infinity": b'{"model_type": "vit", "layer_norm_eps": Infinity}',
    "number too large": b'{"model_type": "vit", "layer_norm_eps": 1e999}',
    "number of many digits": b'{"model_type": "vit", "hidden_size": ' + b"9" * 100_000 + b"}",
    "a list": b'["vit"]',
    "not text": b"\xff\xfe\x00",
    "half": b'{"model_type": "vit", ',
    "large": b'{"model_type": "vit", "x": "' + b"x" * (9 << 20) + b'"}',
    "type of an object": b'{"model_type": {"a": 1}}',
    "vitkit with a family of a path": b'{"vitkit": 1, "model": {"family": "../../os"}}',
    "vitkit with a module's name": b'{"vitkit": 1, "model": {"family": "__init__"}}',
    "vitkit without a model": b'{"vitkit": 1, "model": {}}',
}


def _config(text: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tensors(folder, {"patch_embed.proj.weight": one()}).rename(folder / "model.safetensors")
        (folder / "config.json").write_bytes(text)
        return folder

    return make


for _name, _text in CONFIGS.items():
    CORPUS[f"config {_name}"] = _config(_text)


def _with_wrong_encoding(path: Path) -> Path:
    """Marks the member names as UTF-8 and makes one of them invalid."""
    data = bytearray(path.read_bytes())
    directory = data.find(b"PK\1\2")
    flags, name = directory + 8, directory + 46
    data[flags + 1] |= 0x08
    data[name] = 0xAF
    path.write_bytes(data)
    return path


@entry
def _pth_with_a_member_name_in_a_wrong_encoding(folder: Path) -> Path:
    torch.save(state(), folder / "x.pth")
    return _with_wrong_encoding(folder / "x.pth")


@entry
def _npz_with_a_member_name_in_a_wrong_encoding(folder: Path) -> Path:
    np.savez(folder / "x.npz", **{name: value.numpy() for name, value in state().items()})
    return _with_wrong_encoding(folder / "x.npz")
