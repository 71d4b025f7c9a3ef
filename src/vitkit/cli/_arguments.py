"""Parses command lines: collects the options of a command, validates the arguments, and prints the help.

The signature and the docstring of a command define its options. A parameter whose type is a dataclass (`_options`) is a
group of options that several commands share. `parse` handles every command line. If an option is given several times,
the values of a list option accumulate. For other options, this is an error.
"""

import dataclasses
import difflib
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from vitkit.text import printable

Command = Callable[..., int | None]
#: flag: an option without a value. value: one value. list: any number of values. joined: comma-separated values.
Kind = Literal["flag", "value", "list", "joined"]
# REQUIRED marks a parameter without a default. The help does not show defaults in SILENT: the help texts describe them.
REQUIRED = Parameter.empty
SILENT = (None, (), "")
# Column of the help texts.
HELP_COLUMN = 22
# Longest list of choices, in characters, that is shown before a help text.
LONGEST_CHOICES = 28
# Maps option names of other tools to the option names of vitkit.
SYNONYMS = {
    **dict.fromkeys(("learning-rate", "lr-max", "lr0", "max-lr"), "--lr"),
    **dict.fromkeys(("bs", "batch", "train-batch-size", "per-device-train-batch-size"), "--batch-size"),
    **dict.fromkeys(("imgsz", "img-size", "size", "resolution", "input-size"), "--image-size"),
    **dict.fromkeys(("output", "output-dir", "out-dir", "save-dir", "project", "to"), "--out"),
    **dict.fromkeys(("dataset", "data-dir", "train-data", "images"), "--data"),
    **dict.fromkeys(("val-data", "val-dir", "eval-data", "eval-dir"), "--val"),
    **dict.fromkeys(("num-steps", "max-steps", "iterations", "iters", "num-iterations"), "--steps"),
    **dict.fromkeys(("num-epochs", "max-epochs", "num-train-epochs"), "--epochs"),
    **dict.fromkeys(("time", "max-time", "duration", "max-minutes"), "--minutes"),
    **dict.fromkeys(("gpu", "cuda", "cpu"), "--device"),
    **dict.fromkeys(("topk", "top-k", "k", "num"), "--top"),
    **dict.fromkeys(("evaluators", "metrics", "metric"), "--with"),
    **dict.fromkeys(("format", "target"), "--to"),
    **dict.fromkeys(("config", "override", "overrides"), "--set"),
    **dict.fromkeys(("checkpoint", "weights", "pretrained", "init"), "--init-from"),
}
METAVARS = {int: "INT", float: "NUMBER", Path: "PATH", str: "TEXT"}
PLACEHOLDERS = {
    **dict.fromkeys(("data", "val", "train"), "SOURCE"),
    **dict.fromkeys(("model", "init_from"), "MODEL"),
    "calibration": "IMAGE",
    "device": "DEVICE",
    "objective": "OBJECTIVE",
    "revision": "REVISION",
    "set": "NAME=VALUE",
}


class Joined:
    """Marks an option whose value is a comma-separated list: `Annotated[str, Joined()]`. Repeated values are joined."""


@dataclass(frozen=True)
class Option:
    """An option or a positional argument of a command.

    `flags` are the names on the command line, empty for a positional argument. `group` is the parameter of the command
    function that receives the option: an option group, or the option itself if it belongs to no group.
    """

    name: str
    group: str
    flags: tuple[str, ...]
    kind: Kind
    type: Any
    default: Any
    help: str
    metavar: str

    @property
    def shown(self) -> str:
        """The name in error messages: the flag, or the placeholder of a positional argument."""
        return self.flags[0] if self.flags else self.metavar


def options(function: Command) -> dict[str, Option]:
    """Returns the options of a command by name, including the options in groups, in the order of the help."""
    hints, texts = get_type_hints(function, include_extras=True), documented(function.__doc__ or "")
    found: dict[str, Option] = {}
    for name, parameter in signature(function).parameters.items():
        group: Any = hints[name]
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            inner = get_type_hints(group, include_extras=True)
            # The docstring of a group describes only its own fields. Inherited fields are described in the base class.
            described = [documented(each.__doc__ or "") for each in reversed(group.__mro__)]
            words = {field: text for each in described for field, text in each.items()} | texts
            for field in dataclasses.fields(group):
                default = REQUIRED if field.default is MISSING else field.default
                found[field.name] = _option(field.name, name, inner[field.name], default, words)
        else:
            found[name] = _option(name, name, hints[name], parameter.default, texts)
    return found


def parse(name: str, function: Command, words: Sequence[str]) -> dict[str, Any]:
    """Parses command-line arguments. Returns a dict from parameter name to value.

    With -h or --help, prints the help and exits. Raises ValueError for unknown, missing and repeated options, and for
    values of the wrong type.
    """
    table = options(function)
    if {"-h", "--help"} & {*words}:
        print(help_text(name, function, shutil.get_terminal_size().columns))
        raise SystemExit(0)
    arranged = _arranged(name, table, words)
    import tyro

    collect = _collector(table)
    values = tyro.cli(collect, prog=f"vitkit {name}", args=arranged, config=(tyro.conf.FlagCreatePairsOff,))
    given: dict[str, Any] = {each.name: values[each.name] for each in table.values() if each.group == each.name}
    hints = get_type_hints(function)
    for group in dict.fromkeys(each.group for each in table.values() if each.group != each.name):
        given[group] = hints[group](**{each.name: values[each.name] for each in table.values() if each.group == group})
    return given


def help_text(name: str, function: Command, width: int) -> str:
    """Returns the help text of a command, wrapped to `width` characters."""
    width, table = min(max(width, 40), 120), options(function)
    required = [each for each in table.values() if each.default is REQUIRED and each.flags]
    usage = [
        each.metavar if each.default is REQUIRED else f"[{each.metavar}]" for each in table.values() if not each.flags
    ]
    usage = ["usage: vitkit", name, *usage, *(f"{each.shown} {each.metavar}" for each in required), "[OPTIONS]"]
    text = cleandoc(function.__doc__ or "").partition("\nArgs:\n")[0].strip()
    parts = [_filled(" ".join(usage), width, "    "), *(_filled(each, width) for each in text.split("\n\n"))]
    sections: dict[str, list[str]] = {"arguments": [], "options": []}
    for each in table.values():
        title = "arguments" if not each.flags else "options" if each.group == each.name else f"{each.group} options"
        sections.setdefault(title, []).append(_row(each, width))
    plugin = "Load a plug-in: a Python file or an installed module with models or other components (docs/plugins.md)."
    rows = [("--plugin PLUGIN", plugin), ("-h, --help", "Print this help and exit.")]
    next(reversed(sections.values())).extend(_columns(flag, words, width) for flag, words in rows)
    parts += ["\n".join([f"{title}:", *rows]) for title, rows in sections.items() if rows]
    return "\n\n".join(parts)


def _row(option: Option, width: int) -> str:
    """Returns the lines of the help text for an option."""
    text = option.help
    if option.default is REQUIRED and option.flags:
        text += " (required)"
    elif option.default is not REQUIRED and option.kind != "flag" and option.default not in SILENT:
        text += f" (default: {option.default})"
    flags = ", ".join(option.flags)
    return _columns(f"{flags} {option.metavar}".strip() if option.kind != "flag" else flags, text, width)


def _columns(name: str, text: str, width: int) -> str:
    """Formats a name and its description in two columns. A long name has a line of its own."""
    indent = " " * HELP_COLUMN
    lines = _filled(text, width - HELP_COLUMN).replace("\n", f"\n{indent}")
    first = f"  {name}".ljust(HELP_COLUMN)
    return f"{first}{lines}" if first.endswith("  ") else f"  {name}\n{indent}{lines}"


def _filled(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(" ".join(text.split()), width, subsequent_indent=indent, break_on_hyphens=False)


def documented(text: str) -> dict[str, str]:
    """Returns the help texts in the section `Args` of a docstring by name, each as one line."""
    _, _, section = cleandoc(text).partition("\nArgs:\n")
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if match := re.fullmatch(r"    (\w+): (.*)", line):
            found[match[1]] = [match[2]]
        elif found and line.startswith("        "):
            found[next(reversed(found))].append(line.strip())
        elif line.strip():
            break
    return {name: " ".join(lines) for name, lines in found.items()}


def _option(name: str, group: str, hint: Any, default: Any, texts: dict[str, str]) -> Option:
    from tyro.conf import Positional

    marks: list[Any] = list(getattr(hint, "__metadata__", ()))
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    positional = any(each in marks for each in getattr(Positional[int], "__metadata__", ()))
    confs = [each for each in marks if hasattr(each, "metavar")]
    flag = next((each.name for each in confs if each.name), name).replace("_", "-")
    aliases = tuple(alias for each in confs for alias in each.aliases or ())
    kinds = [each for each in get_args(inner) if each is not NoneType] if NoneType in get_args(inner) else [inner]
    kind: Kind = "flag" if inner is bool else "list" if get_origin(kinds[0]) is tuple else "value"
    if any(isinstance(each, Joined) for each in marks):
        kind = "joined"
    choices = [str(each) for each in get_args(kinds[0])] if get_origin(kinds[0]) is Literal else []
    text, listed = texts.get(name, ""), f"{{{','.join(choices)}}}"
    if choices and len(listed) > LONGEST_CHOICES:
        text, listed = f"{text} One of {', '.join(choices)}.", flag.upper()
    metavar = next((each.metavar for each in confs if each.metavar), None)
    metavar = metavar or (listed if choices else _placeholder(name, kinds[0]) + " ..." * (kind == "list"))
    flags = () if positional else (f"--{flag}", *aliases)
    return Option(name, group, flags, kind, kinds[0], default, text, metavar)


def _placeholder(name: str, of: Any) -> str:
    return METAVARS[of] if of in (int, float) else PLACEHOLDERS.get(name, METAVARS.get(of, "TEXT"))


def _collector(table: dict[str, Option]) -> Callable[..., dict[str, Any]]:
    """Creates a function for tyro whose parameters are the options of a command.

    It returns its arguments as a dict.
    """
    from tyro.conf import Positional, arg

    def collect(**values: Any) -> dict[str, Any]:
        return values

    parameters, hints = [], {}
    for each in table.values():
        hint = each.type if each.default is not None else each.type | None
        if each.flags:
            hints[each.name] = Annotated[hint, arg(name=each.shown.removeprefix("--"), aliases=each.flags[1:])]
        else:
            hints[each.name] = Positional[hint]
        parameters.append(Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default))
    collect.__annotations__ = hints
    collect.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return collect


def _arranged(command: str, table: dict[str, Option], words: Sequence[str]) -> list[str]:
    """Validates the arguments. Returns the positional arguments, followed by each option once with all its values."""
    given, positional = _given(command, table, words)
    places = [each for each in table.values() if not each.flags]
    # A missing list, such as IMAGE..., is reported by the command itself.
    missing = [each.metavar for each in places[len(positional) :] if each.default is REQUIRED and each.kind != "list"]
    for each in table.values():
        if each.flags and each.default is REQUIRED and each.name not in given:
            missing.append(f"{each.shown} {each.metavar}")
    if missing:
        raise ValueError(f"`vitkit {command}` needs {' and '.join(missing)}; `vitkit {command} --help` explains them")
    if len(positional) > len(places) and not any(each.kind == "list" for each in places):
        extra = printable(positional[len(places)])
        raise ValueError(f"`vitkit {command}` does not take the argument '{extra}'; see `vitkit {command} --help`")
    for each, value in zip(places, positional, strict=False):
        if each.kind == "value":
            _check(each, value)
    arranged = list(positional)
    for name, values in given.items():
        option = table[name]
        for value in values if option.kind == "value" else ():
            _check(option, value)
        if option.kind in ("flag", "list"):
            arranged += [option.shown, *values]
        else:
            arranged.append(f"{option.shown}={','.join(values)}")
    return arranged


def _given(command: str, table: dict[str, Option], words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Splits the arguments into the values of each option, by name, and the positional arguments.

    Raises ValueError for an unknown option, and if an option that takes one value is given twice.
    """
    flags = {flag: each for each in table.values() for flag in each.flags}
    given: dict[str, list[str]] = {}
    positional, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if not _is_option(word):
            positional.append(word)
            continue
        flag, equals, value = word.partition("=")
        option = flags.get(flag.replace("_", "-"))
        if option is None:
            raise ValueError(unknown(command, flag, flags))
        values = [value] if equals else []
        if option.kind == "flag" and equals:
            raise ValueError(f"{flag} takes no value, but '{printable(value)}' was given")
        while option.kind != "flag" and rest and not _is_option(rest[0]) and (option.kind == "list" or not values):
            values.append(rest.pop(0))
        if option.kind in ("value", "joined") and not values:
            raise ValueError(f"{flag} needs a value, as in {flag} {option.metavar}")
        if option.kind == "value" and option.name in given:
            first, second = (printable(each) for each in (given[option.name][0], values[0]))
            raise ValueError(f"{option.shown} was given twice, as '{first}' and as '{second}'; give it once")
        given[option.name] = [*given.get(option.name, []), *values]
    return given, positional


def _is_option(word: str) -> bool:
    """Returns whether an argument is an option. Negative numbers and `-` (standard input) are not options."""
    return re.match(r"--?[^\W\d]", word) is not None


def unknown(command: str, flag: str, flags: Iterable[str]) -> str:
    """Returns the error message for an unknown option, with similar options and settings of the run config."""
    known, word = sorted(flags), flag.lstrip("-").replace("_", "-")
    found = [each for each in (f"--{word}", SYNONYMS.get(word, "")) if each in known]
    if not found and "--steps" in known:
        found = [f"--set {each}=VALUE" for each in run_settings(word.replace("-", "_"))]
    found = found or difflib.get_close_matches(f"--{word}", known, n=2, cutoff=0.7)
    text = f"`vitkit {command}` has no option {printable(flag)}"
    if not found:
        return f"{text}; `vitkit {command} --help` lists its options"
    return f"{text}; did you mean {' or '.join(found[:3])}?"


def run_settings(name: str) -> list[str]:
    """Returns the full names of run config settings for a short name: `optimizer.weight_decay` for `weight_decay`."""
    from vitkit.models import vit
    from vitkit.objectives import supervised
    from vitkit.training import Run

    def walk(config: type, prefix: str) -> Iterator[str]:
        for field, hint in get_type_hints(config).items():
            inner = {"model": vit.Config, "objective": supervised.Config}.get(field, hint) if not prefix else hint
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                yield from walk(inner, f"{prefix}{field}.")
            elif field == name:
                yield f"{prefix}{field}"

    return list(walk(Run, ""))


def _check(option: Option, value: str) -> None:
    """Raises ValueError if a value does not have the type of its option."""
    choices = get_args(option.type) if get_origin(option.type) is Literal else ()
    if choices and value not in map(str, choices):
        near = difflib.get_close_matches(value, [str(each) for each in choices], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{option.shown} is '{printable(value)}'; expected one of {', '.join(map(str, choices))}{hint}"
        )
    if option.type in (int, float):
        try:
            option.type(value)
        except ValueError:
            expected = "an integer" if option.type is int else "a number"
            raise ValueError(f"{option.shown} is '{printable(value)}'; expected {expected}") from None
