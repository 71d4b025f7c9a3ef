"""Conversions of config values: dtypes, text from `update_from_string`, and JSON."""

from collections.abc import Mapping

import torch

from vitkit.text import printable


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Converts the name of a dtype to a `torch.dtype`. Raises ValueError if the name is unknown."""
    parsed = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(parsed, torch.dtype):
        raise ValueError(f"unknown dtype '{printable(dtype)[:40]}'; use auto, float32, bfloat16, float16 or float64")
    return parsed


def parse_value(name: str, text: str, present: object) -> object:
    """Converts text to the type of the present value of the key `name`.

    Raises ValueError if the text is not a value of this type. Raises TypeError if values of this type cannot be parsed.
    """
    if isinstance(present, bool):
        if text.lower() not in ("true", "1", "y", "yes", "false", "0", "n", "no"):
            raise ValueError(f"can't derive true or false from {text} (key {name})")
        return text.lower() in ("true", "1", "y", "yes")
    if isinstance(present, int | float):
        return type(present)(text)
    if isinstance(present, str):
        return text
    raise TypeError(f"You can only update int, float, bool or string values in the config, got {text} for key {name}")


def to_json(value: object) -> object:
    """Converts a value to JSON types. Dtypes become their names, such as "float32"."""
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json(item) for item in value]
    if isinstance(value, bool | int | float | str | None):
        return value
    return str(value).removeprefix("torch.")
