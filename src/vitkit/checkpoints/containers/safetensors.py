"""Reads and writes safetensors files. vitkit validates the header before the library maps the values to memory."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.json_files import parse_json
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.regular import open_regular

# The format allows 100 MB. The largest ViT needs a twentieth of this limit; parsed JSON takes 20 times its text.
MAX_HEADER = 2 << 20

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}


def open_file(path: Path) -> Tensors:
    """Opens a safetensors file. Raises CheckpointError if the header is invalid or does not match the file size."""
    infos = read_header(path)
    opened: list[Any] = []

    def read(name: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            if not opened:
                opened.append(safe_open(path, framework="pt"))
            return opened[0].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path.name}: {str(error).splitlines()[0]}") from None

    return Tensors(infos, read)


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes `model.safetensors` with the metadata that transformers requires.

    Writes no file if a tensor is on the meta device.
    """
    from safetensors.torch import save_file

    if any(tensor.is_meta for tensor in tensors.values()):
        return
    # safetensors does not allow tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path = folder / "model.safetensors"
    # Newer versions of the library write files that only their owner can read.
    path.touch()
    mode = path.stat().st_mode
    save_file(own, path, metadata={"format": "pt"})
    path.chmod(mode & 0o777)


def read_header(path: Path) -> dict[str, Info]:
    """Returns the header entries after checking that every byte of data belongs to exactly one tensor."""
    size = path.stat().st_size
    with open_regular(path) as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise CheckpointError(
                "not a complete safetensors file: its header is longer than the file; download or copy the file again"
            )
        if length > MAX_HEADER:
            raise CheckpointError(f"the safetensors header has {length:,} bytes; the limit is {MAX_HEADER:,} bytes")
        text = file.read(length)
    if not text.startswith(b"{"):
        raise CheckpointError(
            "not a safetensors file: the header does not start with '{'; download or copy the file again"
        )
    header = parse_json(text, "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ in the safetensors header must be a JSON object with only string values")
    entries = {name: _entry(name, value) for name, value in header.items()}
    _check_layout({name: span for name, (_, span) in entries.items()}, size - 8 - length)
    return {name: info for name, (info, _) in entries.items()}


def _entry(name: str, value: Any) -> tuple[Info, tuple[int, int]]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"the header entry of {name[:80]!r} must have exactly the keys dtype, shape and data_offsets"
        )
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"the tensor {name[:80]!r} has dtype {str(dtype)[:20]!r}, expected one of {', '.join(DTYPES)}"
        )
    if not _naturals(shape) or not _naturals(span) or len(span) != 2 or len(shape) > 8:
        raise CheckpointError(
            f"the tensor {name[:80]!r} has shape {str(shape)[:40]} and data_offsets {str(span)[:40]}; "
            "expected at most 8 sizes and two offsets, all integers of at least 0"
        )
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if span[1] - span[0] != size:
        raise CheckpointError(
            f"the tensor {name[:80]!r} of dtype {dtype} and shape {tuple(shape)} needs {size:,} bytes, "
            f"but its data_offsets span {span[1] - span[0]:,}"
        )
    return Info(tuple(shape), DTYPES[dtype]), (span[0], span[1])


def _check_layout(spans: dict[str, tuple[int, int]], size: int) -> None:
    end = 0
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        if start != end:
            kind = "overlaps another tensor" if start < end else "leaves a gap before it"
            raise CheckpointError(
                f"the tensor {name[:80]!r} {kind}: it starts at byte {start:,}, "
                f"but the previous tensor ends at byte {end:,}"
            )
        end = stop
    if end != size:
        raise CheckpointError(
            f"the safetensors header lists {end:,} bytes of tensors, but the file has {size:,}; copy the file again"
        )


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
