"""Converts frozen dataclasses to JSON and back, with strict type checks and overrides such as `optimizer.lr=1e-3`.

Level 0. Every config of vitkit (model, processor, run) is a frozen, keyword-only dataclass of plain values, and only
this module reads and writes their JSON form. An unknown key, a missing key or a value of another type is a `ValueError`
with the key, the value and what was expected.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)


@runtime_checkable
class Dataclass(Protocol):
    """Protocol for any dataclass instance, such as a config."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


# Largest number of options that an error message lists.
LISTED = 30
Config = TypeVar("Config", bound=Dataclass)
ConfigClass = TypeVar("ConfigClass")
# A parsed JSON object. The types of its values are not known before the code that uses them has checked them.
Json = Mapping[str, Any]
# A JSON object that the caller may change or write: the result of `to_dict`, or of a parser.
JsonDict = dict[str, Any]
# The config of any model or of any objective. Its class is found by name at run time, and its fields depend on it.
AnyConfig = Any
# An entry of `get_type_hints`: a class, a union, `Literal[...]`, `tuple[...]` or `dict[...]`, without a common type.
Hint = Any
# A value before or after it is converted to the type of a `Hint`.
Converted = Any


def to_dict(config: Dataclass) -> JsonDict:
    """Converts a config to nested dicts for JSON. Fields keep their order, and tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[ConfigClass], data: Json, *, where: str = "") -> ConfigClass:
    """Converts the output of `to_dict` back to a config. Missing fields get their default values.

    `where` is the prefix of names in errors. Raises ValueError for unknown keys, for missing fields without a default,
    and for values of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or cls.__name__}: expected an object with named fields, got {_show(data)}")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ValueError(f"unknown key '{_join(where, key)}'{nearest(str(key), fields)}")
    values = {name: convert(value, hints[name], _join(where, name)) for name, value in data.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"the key '{_join(where, name)}' is missing; it has no default value")
    return cls(**values)


def override(config: Config, changes: Mapping[str, object]) -> Config:
    """Returns a copy of `config` with changed fields, such as `{"optimizer.lr": 1e-3}`. Strings are parsed.

    All changes are applied at once, so that fields that depend on each other can change together.
    """
    return _override(config, [(name.split("."), value, name) for name, value in changes.items()])


def _override(config: Config, changes: Sequence[tuple[list[str], object, str]]) -> Config:
    hints = get_type_hints(type(config))
    values: dict[str, object] = {}
    inner: dict[str, list[tuple[list[str], object, str]]] = {}
    for (first, *rest), value, full in changes:
        if first not in hints:
            raise ValueError(f"unknown key '{full}'{nearest(first, hints)}")
        if rest:
            inner.setdefault(first, []).append((rest, value, full))
        else:
            values[first] = convert(parse(value) if isinstance(value, str) else value, hints[first], full, text=value)
    for first, deeper in inner.items():
        part = values.get(first, getattr(config, first))
        if not dataclasses.is_dataclass(part) or isinstance(part, type):
            raise ValueError(f"cannot set '{deeper[0][2]}', because '{first}' is {_show(part)} and has no fields")
        values[first] = _override(part, deeper)
    return dataclasses.replace(config, **values)


def parse_options(cls: type[ConfigClass], text: str, where: str) -> ConfigClass:
    """Parses options such as `number=5&size=32` or `number=5,size=32` into a config.

    `where` describes the origin of the text in error messages. Raises ValueError for an unknown option, a value of the
    wrong type, and a missing option without a default.
    """
    pairs = [part.partition("=") for part in re.split(r"[&,](?=\w+=)", text) if part]
    hints = get_type_hints(cls)
    values: JsonDict = {}
    for name, equals, value in pairs:
        if not equals or name not in hints:
            problem = f"unknown option '{name}'" if equals else f"'{name}' is not of the form NAME=VALUE"
            raise ValueError(f"{where}: {problem}{nearest(name, hints) if hints else '; it takes no options'}")
        values[name] = convert(parse(value), hints[name], f"{where}.{name}", text=value)
    return from_dict(cls, values, where=where)


def parse(text: str) -> Converted:
    """Parses a command-line value. JSON (such as true or [1, 2]) and `none` are converted, other text is a string."""
    import json

    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def convert(value: Converted, hint: Hint, where: str, *, text: object = None) -> Converted:
    """Converts a value to the type `hint`. Raises ValueError if the value does not fit the type.

    Converts ints to floats, lists to tuples and dicts to dataclasses as needed.

    `text` is the string that the value was parsed from; it is used if `hint` is a string (a label named "1", a pool
    named "none").
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where, text)
    if origin is Literal:
        if text in arguments:
            return text
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        near = similar(value, arguments) if isinstance(value, str) else ""
        raise ValueError(f"'{where}' is {_show(value)}; expected one of {', '.join(map(repr, arguments))}{near}")
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, "an object", where)
        return {
            convert(key, arguments[0], where): convert(item, arguments[1], f"{where}.{key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where=where)
    return _convert_plain(value, hint, where, text)


def _convert_plain(value: object, hint: Hint, where: str, text: object) -> Converted:
    if hint in (None, type(None)):
        if value is None:
            return None
        raise _wrong_type(value, "null", where)
    if hint is str and isinstance(text, str):
        return text
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    raise _wrong_type(value, names.get(hint, str(hint)), where)


def _convert_union(value: object, arguments: tuple[Hint, ...], where: str, text: object) -> Converted:
    errors = []
    # The exact type first, so that an int stays an int in `int | float` and None does not become a string.
    for hint in sorted(arguments, key=lambda hint: type(value) is not hint):
        try:
            return convert(value, hint, where, text=None if value is None else text)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(errors[0] if len(arguments) == 2 and type(None) in arguments else "; or ".join(errors))


def _convert_tuple(value: object, arguments: tuple[Hint, ...], where: str) -> tuple[Converted, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong_type(value, "a list", where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise ValueError(f"'{where}' has {len(value)} values; expected {len(arguments)}")
    pairs = enumerate(zip(value, arguments, strict=True))
    return tuple(convert(item, hint, f"{where}[{index}]") for index, (item, hint) in pairs)


def once(pairs: Iterable[tuple[str, str]], where: str = "") -> dict[str, str]:
    """Converts (name, value) pairs to a dict.

    Raises ValueError if a name is given twice, with both values. `where` is text before the name in the error message,
    such as "--set ".
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            shown = name if name.isprintable() else repr(name)
            raise ValueError(f"{where}{shown} was given twice, as {found[name]!r} and as {value!r}; give it once")
        found[name] = value
    return found


def nearest(word: str, options: Iterable[object], *, limit: int = 3) -> str:
    """Returns the end of an error message that suggests options similar to `word`, or else lists the options."""
    names = [str(option) for option in options]
    if near := similar(word, names, limit=limit):
        return near
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"; choose from {', '.join(names[:LISTED])}{more}" if names else ""


def similar(word: str, options: Iterable[object], *, limit: int = 3) -> str:
    """Returns a suggestion of options similar to `word` for the end of an error message, or "" if there are none."""
    near = difflib.get_close_matches(word, [str(option) for option in options], n=limit, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _wrong_type(value: object, expected: str, where: str) -> ValueError:
    return ValueError(f"'{where}' is {_show(value)}; expected {expected}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
