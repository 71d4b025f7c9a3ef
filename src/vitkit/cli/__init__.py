"""The command line interface of vitkit. Each command is a typed function in a file of the same name.

The signature and the docstring of the function are the help of the command. A command calls the library, prints, and
returns its exit code (None is 0). User errors are one line on standard error with exit code 1, or 2 if some of many
inputs failed; VITKIT_DEBUG=1 shows the traceback. No command imports torch before it runs, so that help is fast.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence

from vitkit.registry import Registry

_COMMANDS = Registry(__name__, "command")


def commands() -> list[str]:
    """Returns the names of all commands."""
    return _COMMANDS.names()


def command(name: str) -> Callable[..., int | None]:
    """Returns the function of a command. Raises ValueError if the name is unknown."""
    return getattr(_COMMANDS.get(name), name)


def usage() -> str:
    """Returns the help text of `vitkit` without a command."""
    lines = ["usage: vitkit COMMAND ...", "", "A complete Vision Transformer toolkit. Commands:", ""]
    for name in commands():
        summary = (command(name).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10} {summary}")
    lines += ["", "`vitkit COMMAND --help` lists the options of a command, `vitkit --version` prints the version."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # File names may contain characters that the terminal cannot encode; they are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 1
    if words[0] == "--version":
        from vitkit import __version__

        print(f"vitkit {__version__}")
        return 0
    try:
        function = command(words[0])
        import tyro

        options = (tyro.conf.FlagCreatePairsOff,)
        return int(tyro.cli(function, prog=f"vitkit {words[0]}", args=words[1:], config=options) or 0)
    except KeyboardInterrupt as error:
        # The message of an interrupted training run says what was saved and which signal arrived.
        return _fail(str(error) or "interrupted", code=getattr(error, "exit_code", 130))
    except BrokenPipeError:
        # The reader closed our output (`vitkit ... | head`). Redirect it, so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("VITKIT_DEBUG") == "1":
            raise
        return _fail(" ".join(str(error).split()) or type(error).__name__)


def _fail(message: str, *, code: int = 1) -> int:
    print(f"vitkit: {message}", file=sys.stderr)
    return code
