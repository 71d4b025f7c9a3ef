"""Checks that a .pt2 archive is safe before `torch.export.load` reads it.

`torch.export.load` unpickles: weights and constants marked `use_pickle`, custom objects, and the sample inputs (with a
fallback from `weights_only=True` to full pickle). It also parses symbolic sizes with a parser that evaluates Python,
resolves operator names by attribute lookup in the module `torch`, and runs `guards_code`. The check rejects all of
these: an archive may only have raw tensors, operators of an allowlist and strings that are names; no sample inputs and
no guards.
"""

import json
import re
import struct
import zipfile
from collections.abc import Iterator
from math import prod
from typing import Any, BinaryIO, Final

import torch

from vitkit.checkpoints import CheckpointError
from vitkit.config import Json, JsonDict

_MAX_JSON: Final = 64 << 20
_MODEL: Final = "models/model.json"
_CONFIGS: Final = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
_SAMPLES: Final = "data/sample_inputs/model.pt"
_END_RECORD: Final = struct.Struct("<4s16xH")  # of a zip archive: signature and comment length
_PLAIN: Final = {"archive_format", "archive_version", ".data/version", "byteorder", ".data/serialization_id"}
_TENSORS: Final = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,6}")

#: Allowed aten operators: they have no side effects except on tensors. The contract tests of exports need them all.
_OPERATORS: Final = """
_assert_tensor_metadata add adaptive_avg_pool2d alias amax arange avg_pool2d batch_norm bmm cat chunk clamp clone
constant_pad_nd contiguous conv1d conv2d cos cumsum detach div dropout einsum embedding eq exp expand fill_ flatten
floor_divide full full_like gather ge gelu group_norm gt index index_select layer_norm le linear logical_not lt
masked_fill matmul max max_pool2d mean meshgrid min mm movedim mul narrow native_group_norm native_layer_norm ne neg
new_zeros numpy_T ones ones_like outer pad permute pow promote_types relu repeat repeat_interleave reshape roll
rsqrt rsub scaled_dot_product_attention select sigmoid silu sin slice softmax split split_with_sizes sqrt square
squeeze stack sub sum sym_size t tanh tensor_split tile to transpose unbind unflatten unsqueeze upsample_bicubic2d
upsample_bilinear2d var var_mean view where zeros zeros_like
"""
_ATEN: Final = frozenset(_OPERATORS.split())
_TARGET: Final = re.compile(
    r"torch\.ops\.aten\.(?P<aten>\w{1,60})\.\w{1,40}|_operator\.(?:add|sub|mul|floordiv|getitem)"
)
_NAME: Final = re.compile(r"[\w./+\- ]{0,200}")
_EINSUM: Final = re.compile(r"[a-zA-Z, ]{1,80}->[a-zA-Z ]{0,40}")
_SIZE: Final = re.compile(
    r"(?:Symbol\('s\d{1,6}'(?:, (?:positive|integer|nonnegative)=True){0,3}\)|Integer\(-?\d{1,12}\)"
    r"|(?:Mul|Add)\(|\)|, ){1,40}"
)


def check(file: BinaryIO, name: str) -> None:
    """Raises CheckpointError unless it is safe to read the archive with `torch.export.load`."""
    try:
        # PyTorch's own archive reader: another reader could see other members in the same bytes.
        reader = torch._C.PyTorchFileReader(file)  # type: ignore[attr-defined]
        records = list(reader.get_all_records())
    except RuntimeError:
        raise CheckpointError(f"{name} is not a .pt2 archive written by torch.export") from None
    try:
        sizes = _sizes(reader, records, file)
        _check_records(records, sizes, file)
        for folder, config in _CONFIGS.items():
            _check_payloads(_json(reader, sizes, config), folder, sizes)
        _check_model(_json(reader, sizes, _MODEL))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{name}: the archive does not have the structure that torch.export writes") from None


def _sizes(reader: torch._C.PyTorchFileReader, records: list[str], file: BinaryIO) -> dict[str, int]:
    """Returns the size in bytes of each record in the archive."""
    try:
        return {record: reader.get_record_size(record) for record in records}
    except AttributeError:  # torch 2.9
        return _sizes_by_directory(reader, records, file)
    except RuntimeError:
        raise CheckpointError("the archive is damaged, because a record in its directory cannot be found") from None


def _sizes_by_directory(reader: Any, records: list[str], file: BinaryIO) -> dict[str, int]:
    """Returns the record sizes from zipfile, after checking that PyTorch would read the same records.

    The directory must be the end of the file, and its entries must have the names, order and offsets that PyTorch
    reads, uncompressed.
    """
    file.seek(-_END_RECORD.size, 2)
    signature, comment = _END_RECORD.unpack(file.read(_END_RECORD.size))
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, struct.error, EOFError, RuntimeError, ValueError, OSError):
        raise CheckpointError("the zip directory of the archive cannot be read") from None
    positions = [(record, reader.get_record_header_offset(record)) for record in records]
    entries = [(entry.filename.partition("/")[2], entry.header_offset) for entry in found]
    stored = all(each.compress_type == zipfile.ZIP_STORED and each.compress_size == each.file_size for each in found)
    if (signature, comment) != (b"PK\5\6", 0) or entries != positions or not stored:
        raise CheckpointError("the zip directory of the archive was not written by torch.export")
    return {record: entry.file_size for record, entry in zip(records, found, strict=True)}


def _check_records(records: list[str], sizes: dict[str, int], file: BinaryIO) -> None:
    known = {*_PLAIN, _MODEL, _SAMPLES, *_CONFIGS.values()}
    for record in records:
        if record not in known and not _TENSORS.fullmatch(record):
            raise CheckpointError(
                f"unexpected record in the archive: {record[:80]!r}; export the model again with vitkit"
            )
    if len(set(records)) != len(records):
        raise CheckpointError("two records of the archive have the same name")
    if sizes.get(_SAMPLES, 0):
        raise CheckpointError(
            "the program contains pickled example inputs, which could execute code; export the model with vitkit, "
            "which removes them"
        )
    file.seek(0, 2)
    if sum(sizes.values()) > file.tell():
        raise CheckpointError("the archive is damaged, because its records have more bytes than the file")


def _json(reader: torch._C.PyTorchFileReader, sizes: dict[str, int], record: str) -> JsonDict:
    if sizes.get(record, _MAX_JSON + 1) > _MAX_JSON:
        raise CheckpointError(f"the record {record} of the archive is missing or larger than {_MAX_JSON:,} bytes")
    try:
        # Of duplicate keys the last one counts, as in torch.
        value = json.loads(reader.get_record(record))
    except ValueError:
        raise CheckpointError(f"the record {record} of the archive is not valid JSON") from None
    return value if isinstance(value, dict) else {}


def _check_payloads(config: Json, folder: str, sizes: dict[str, int]) -> None:
    for entry in config["config"].values():
        record = folder + entry["path_name"]
        if entry["use_pickle"] is not False or not _TENSORS.fullmatch(record):
            raise CheckpointError(
                "a tensor or object is not stored as plain data, and pickles could execute code; export the model "
                "with vitkit, which stores plain data only"
            )
        meta = entry["tensor_meta"]
        if prod(size["as_int"] for size in meta["sizes"]) > sizes[record]:
            raise CheckpointError(f"the record {record} of the archive has fewer bytes than its tensor")
        if meta["device"]["type"] != "cpu":
            raise CheckpointError(
                f"a tensor of the program is on the device {meta['device']['type']!r}; export the model on the CPU"
            )


def _check_model(model: Json) -> None:
    if model.get("guards_code"):
        raise CheckpointError(
            "the program has guards, which are Python code; export the model with vitkit, which removes them"
        )
    for key, text in _strings(model, ""):
        if key == "target":
            match = _TARGET.fullmatch(text)
            if match is None or (match["aten"] is not None and match["aten"] not in _ATEN):
                raise CheckpointError(
                    f"the program has the operator {text[:80]!r}, which is not one of the allowed operators"
                )
        elif key == "expr_str":
            if not _SIZE.fullmatch(text):
                raise CheckpointError(
                    f"the symbolic size {text[:80]!r} is not a product or a sum of integers and symbols"
                )
        elif key in ("in_spec", "out_spec"):
            _check_tree(text)
        elif not _NAME.fullmatch(text) and not (key == "as_string" and _EINSUM.fullmatch(text)):
            raise CheckpointError(f"the program contains the string {text[:80]!r}, which is not a valid name")


def _strings(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yields (key, string) for every string value in JSON data, and ("", key) for every key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, each in value.items():
            yield "", inner
            yield from _strings(each, inner)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each, key)


def _check_tree(text: str) -> None:
    """Raises CheckpointError unless a tree of arguments consists of built-in containers and plain names."""
    try:
        tree = json.loads(text)
    except ValueError:
        raise CheckpointError("the argument tree of the program is not valid JSON") from None
    for key, string in _strings(tree, ""):
        if key == "type" and string not in ("builtins.tuple", "builtins.dict", "builtins.list"):
            raise CheckpointError(f"the argument tree has the container {string[:80]!r}, which is not allowed")
        if not re.fullmatch(r'[\w.\[\]", ]{0,400}', string):
            raise CheckpointError(f"the argument tree contains the string {string[:80]!r}, which is not a valid name")
