"""The command-line interface of vitkit. Each command is a typed function in a module of the same name.

The signature and the docstring of the function are the help of the command. A command calls the library, prints, and
returns its exit code (None is 0). User errors are one line on standard error with exit code 1, or 2 if some of many
inputs failed, 130 or 143 after an interrupt; VITKIT_DEBUG=1 shows the traceback. No command imports torch before it
runs, so that help is fast.
"""

import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vitkit.registry import Registry

_COMMANDS = Registry(__name__, "command")


def commands() -> list[str]:
    """Returns the names of all commands."""
    return _COMMANDS.names()


def command(name: str) -> Callable[..., int | None]:
    """Returns the function of a command. Raises ValueError if the name is unknown."""
    return getattr(_COMMANDS.get(name), name)


def parse(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Parses the command-line arguments of a command, without running the command.

    Raises ValueError for unknown, missing and repeated options. Prints the help and exits for `--help`.
    """
    from vitkit.cli import _arguments

    return _arguments.parse(name, command(name), words)


def usage() -> str:
    """Returns the help text that `vitkit` prints without a command."""
    lines = ["usage: vitkit COMMAND ...", "", "A complete Vision Transformer toolkit. Commands:", ""]
    for name in commands():
        summary = (command(name).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10} {summary}")
    lines += [
        "",
        "`vitkit COMMAND --help` lists the options of a command, and `vitkit --version`",
        "prints the version. Every command accepts --plugin PLUGIN, which loads models,",
        "objectives and other components from a Python file or an installed module",
        "(docs/plugins.md). Plug-ins of installed packages are found automatically.",
    ]
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
    if words[0:1] == ["help"] and words[1:]:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 1
    if words[0] == "--version":
        from vitkit import __version__

        print(f"vitkit {__version__}")
        return 0
    words, plugins = _take_plugins(words)
    if not words:
        raise ValueError("--plugin needs a command: vitkit COMMAND ... --plugin FILE")
    from vitkit import discovery, logs

    arguments = parse(words[0], words[1:])
    with logs.shown():
        for plugin in plugins:
            if not discovery.load(plugin):
                logs.LOGGER.warning("the plug-in %s registers no component; see docs/plugins.md", plugin)
        return command(words[0])(**arguments)


def _take_plugins(words: list[str]) -> tuple[list[str], list[str]]:
    """Removes the option --plugin, which every command has.

    Returns the other arguments and the values of --plugin.
    """
    rest: list[str] = []
    plugins: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            rest += [word, *left]
        elif word == "--plugin" or word.startswith("--plugin="):
            value = word.partition("=")[2] if "=" in word else next(left, "")
            if not value or value.startswith("-"):
                raise ValueError("--plugin needs a value: a Python file such as ./mine.py, or an installed module")
            plugins.append(value)
        else:
            rest.append(word)
    return rest, plugins
