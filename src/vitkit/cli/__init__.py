"""The command-line interface of vitkit. Each command is a typed function in a module of the same name.

The signature and the docstring of the function are the help of the command. A command calls the library, prints, and
returns its exit code (None is 0). User errors are one line on standard error with exit code 1, or 2 if some of many
inputs failed, 130 or 143 after an interrupt; VITKIT_DEBUG=1 shows the traceback. No command imports torch before it
runs, so that help is fast.
"""

import io
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from vitkit.registry import Registry

_COMMANDS = Registry(__name__, "command")


def commands() -> list[str]:
    """Returns the names of all commands."""
    return _COMMANDS.names()


def command(name: str) -> Callable[..., int | None]:
    """Returns the function of a command. Raises ValueError if the name is unknown."""
    return getattr(_COMMANDS.get(name), name)


def usage() -> str:
    """Returns the help text that `vitkit` prints without a command."""
    lines = ["usage: vitkit COMMAND ...", "", "A complete Vision Transformer toolkit. Commands:", ""]
    for name in commands():
        summary = (command(name).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10} {summary}")
    lines += ["", "`vitkit COMMAND --help` lists the options of a command, `vitkit --version` prints the version."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code.

    Without `arguments`, runs the command line of the process, and prepares the streams and signals of the process.
    """
    from vitkit.cli import _streams

    if arguments is None:
        try:
            _streams.prepare_process()
        except ValueError as error:
            return _streams.fail(error)
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # File names may contain characters that the terminal cannot encode; they are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return _streams.guarded(lambda: _run(words))


def _run(words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 1
    if words[0] == "--version":
        from vitkit import __version__

        print(f"vitkit {__version__}")
        return 0
    function = command(words[0])
    import tyro

    from vitkit import logs

    _hide_missing_defaults(function)
    with logs.shown():
        return tyro.cli(function, prog=f"vitkit {words[0]}", args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))


def _hide_missing_defaults(function: Callable[..., int | None]) -> None:
    """Removes the defaults None, False and "" from the help of a command. The help texts describe these cases."""
    import tyro

    hints = get_type_hints(function, include_extras=True)
    for name, parameter in signature(function).parameters.items():
        if parameter.default in (None, (), "", parameter.empty) or parameter.default is False:
            metavar = _metavar(hints[name]) if parameter.default is None else None
            hidden = tyro.conf.arg(help_behavior_hint="", metavar=metavar)
            function.__annotations__[name] = Annotated[hints[name], hidden]


def _metavar(hint: object) -> str | None:
    """Returns the placeholder of an optional value in the help, or None to keep the placeholder of tyro."""
    given, *_ = (each for each in get_args(hint) if each is not NoneType)
    if get_origin(given) is Literal:
        return f"{{{','.join(map(str, get_args(given)))}}}"
    return given.__name__.upper() if given in (int, float, str, Path) else None
