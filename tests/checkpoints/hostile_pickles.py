"""Generators of pickles that ask for much time or memory, with the interface of `hostile`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Call:
    """Calls a function when unpickled."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _pth_that_allocates_a_gigabyte(folder: Path) -> Path:
    torch.save(
        {"model": {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}, "notes": Call(bytearray, 10**9)},
        folder / "x.pth",
    )
    return folder / "x.pth"


def _pth_of_dicts_shared_five_deep(folder: Path) -> Path:
    value: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(5):
        value = {str(index): value for index in range(100)}
    torch.save(value, folder / "x.pth")
    return folder / "x.pth"


def _pth_of_many_names(folder: Path) -> Path:
    names = [f"{'a.' * 100}{index}.patch_embed.proj.weight" for index in range(15_000)]
    torch.save(dict.fromkeys(names, torch.zeros(1)), folder / "x.pth")
    return folder / "x.pth"


def _pth_that_is_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "x.pth")
    return folder / "x.pth"


def _pickled(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.pth").write_bytes(data)
        return folder / "x.pth"

    return make


CORPUS: dict[str, Callable[[Path], Path]] = {
    "pth_that_allocates_a_gigabyte": _pth_that_allocates_a_gigabyte,
    "pth_of_dicts_shared_five_deep": _pth_of_dicts_shared_five_deep,
    "pth_of_many_names": _pth_of_many_names,
    "pth_that_is_a_pipe": _pth_that_is_a_pipe,
}
PICKLES = {
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 2_000_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".",
    "many dicts": b"\x80\x02" + b"}" * 2_000_000 + b".",
    "many marks": b"\x80\x02" + b"(" * 2_000_000 + b".",
    "a list of itself": b"\x80\x02]q\x00(" + b"h\x00" * 1000 + b"e.",
    "a list that doubles": b"\x80\x02]q\x00(K\x01K\x01e" + b"(h\x00h\x00e" * 20_000 + b".",
    "a string beyond the file": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a number of many digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "no stop": b"\x80\x02}",
    "extension code": b"\x80\x02\x82\x01.",
    "storage of a list": b"\x80\x02]Q.",
    "unknown operation": b"\x80\x02\xff.",
    "shape of texts": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00X\x01\x00\x00\x00a)tR.",
}
for _name, _data in PICKLES.items():
    CORPUS[f"pickle of {_name}"] = _pickled(_data)
