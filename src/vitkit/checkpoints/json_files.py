"""Reads untrusted JSON files and writes JSON. Rejects large or deeply nested files, duplicate keys and NaN."""

import json
from pathlib import Path
from typing import Any, NoReturn

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.config import Json
from vitkit.regular import NotRegularError, check_regular, read_bytes

MAX_BYTES = 8 << 20
# No valid file has longer numbers, and parsing them takes quadratic time.
MAX_DIGITS = 30
# ImageNet-21k has 21,843 labels.
MAX_KEYS = 100_000


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises CheckpointError if the file is not a valid JSON object."""
    try:
        size = check_regular(path).st_size
    except NotRegularError as error:
        raise CheckpointError(f"{error}; remove it or replace it") from None
    if size > MAX_BYTES:
        raise CheckpointError(f"{path.name} has {size:,} bytes; the limit is {MAX_BYTES:,} bytes")
    return parse_json(read_bytes(path), path.name)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parses bytes with the checks of `read_json`. `name` is the file name in error messages."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{name} has too many levels of nested objects or lists") from None
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} does not contain a JSON object")
    return value


def write_json(data: Json, path: Path) -> None:
    """Writes JSON with an indent of two, as transformers and timm do."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    path.write_bytes(text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its JSON escape


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MAX_KEYS:
        raise CheckpointError(f"a JSON object has {len(pairs):,} keys; the limit is {MAX_KEYS:,}")
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise CheckpointError(f"the key {key[:80]!r} occurs twice in a JSON object; remove one of them")
        result[key] = value
    return result


def _constant(text: str) -> NoReturn:
    raise CheckpointError(f"{text} is not a valid JSON value; numbers must be finite")


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise CheckpointError(f"an integer has {len(text)} digits; the limit is {MAX_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise CheckpointError(f"the number {text[:40]} is too large for a float")
    return value
