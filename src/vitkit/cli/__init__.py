"""The command `vitkit`: one file a verb, each a typed function of the same name whose signature and docstring are its
help.

A verb calls the library and prints; it returns its exit code (None is 0). Errors that are the user's to mend are one
line on standard error and exit code 1 (2 where some of many inputs failed); VITKIT_DEBUG=1 shows where they came from.
No verb imports torch before it runs, so that help is immediate.
"""

import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from vitkit.config import nearest


def verbs() -> list[str]:
    """The names of the commands: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def verb(name: str) -> Callable[..., int | None]:
    """The function behind one command."""
    return getattr(import_module(f"{__name__}.{name}"), name)


def usage() -> str:
    """The help of `vitkit` itself."""
    lines = ["usage: vitkit COMMAND ...", "", "The Vision Transformer, whole. Commands:", ""]
    for name in verbs():
        summary = (verb(name).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10} {summary}")
    lines += ["", "`vitkit COMMAND --help` says what a command takes; `vitkit --version` says which vitkit this is."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal cannot show: it is then escaped, and nothing stops.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 1
    if words[0] == "--version":
        from vitkit import __version__

        print(f"vitkit {__version__}")
        return 0
    if words[0] not in verbs():
        return _fail(f"unknown command '{words[0]}'{nearest(words[0], verbs())}")
    try:
        import tyro

        return int(
            tyro.cli(verb(words[0]), prog=f"vitkit {words[0]}", args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))
            or 0
        )
    except KeyboardInterrupt as error:
        # A training run that was asked to end says what it saved, and which signal it was.
        return _fail(str(error) or "interrupted", code=getattr(error, "exit_code", 130))
    except BrokenPipeError:
        # The reader of our output has gone (`vitkit ... | head`): nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("VITKIT_DEBUG") == "1":
            raise
        return _fail(" ".join(str(error).split()) or type(error).__name__)


def _fail(message: str, *, code: int = 1) -> int:
    print(f"vitkit: {message}", file=sys.stderr)
    return code
