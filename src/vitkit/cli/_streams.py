"""Sets up standard streams and signals of a command, and converts stream errors and interrupts to exit codes."""

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from vitkit.text import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What to do about errors of the operating system that users can mend.
ADVICE = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
# Signals that asked a command to stop, in order of arrival.
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """Raised when SIGTERM arrives, so that temporary files are removed and the exit code is 143."""

    exit_code = 128 + signal.SIGTERM


class _Tolerant(io.FileIO):
    """File object for standard error that ignores write errors, so that they never stop a command."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes, or ignores them if the write fails."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Named(io.FileIO):
    """File object for standard output whose write errors contain "standard output" as the file name."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes. If the write fails, raises an OSError with the file name "standard output"."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def prepare_process() -> None:
    """Sets up the streams and signal handlers of the process. Raises ValueError if standard output is closed."""
    # The next file that is opened would get the number of a closed stream, and the text that libraries print to it.
    opened = [os.open(os.devnull, os.O_RDWR) for number in range(3) if _is_closed(number)]
    tolerant = _Tolerant(2, "w", closefd=False)
    encoding = getattr(sys.stderr or sys.stdout, "encoding", None) or "utf-8"
    options = {"encoding": encoding, "errors": "backslashreplace"}
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(tolerant), **options, write_through=True)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings have file names of torch's sources
    warnings.showwarning = show_warning
    _received.clear()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if sys.stdout is None or 1 in opened:
        sys.stdout = io.StringIO()  # what is printed there is lost anyway
        raise ValueError("standard output is closed; redirect it to a file or to /dev/null")
    if sys.stdout.fileno() == 1:
        encoding, lines = sys.stdout.encoding, sys.stdout.isatty()
        named = io.BufferedWriter(_Named(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(named, encoding=encoding, errors="backslashreplace", line_buffering=lines)


def show_warning(message: Warning | str, category: type[Warning], *where: object, **kwargs: object) -> None:
    """Prints a warning as one line on standard error, without the source file and line."""
    print(f"vitkit: warning: {one_line(message)}", file=sys.stderr)


def interrupt_code() -> int:
    """Returns the exit code for the last signal: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def output_failure() -> OSError | None:
    """Flushes standard output. If this fails, discards all further output and returns the error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        return error
    return None


def _discard_output() -> None:
    """Redirects standard output to the null device, so that flushing it at exit cannot fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # a stream in memory
        sys.stdout = io.StringIO()


def one_line(error: object) -> str:
    """Returns the message of an error as one line without control characters."""
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        advice = ADVICE.get(error.errno or 0)
        text = f"{name}{error.strerror}" + (f"; {advice}" if advice else "")
    else:
        text = str(error)
    return printable(" ".join(text.split())) or type(error).__name__


def fail(error: object, *, code: int = 1) -> int:
    """Prints an error on standard error and returns the exit code."""
    print(f"vitkit: {one_line(error)}", file=sys.stderr)
    return code


def guarded(function: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code. Errors of the user or the system are printed as one line.

    The code is 1 for an error, 130 or 143 for an interrupt, and 141 if the reader of the output closed it.
    """
    try:
        code = int(function() or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        # The message of an interrupted training run says what was saved and which signal arrived.
        output_failure()
        return fail(str(error) or "interrupted", code=getattr(error, "exit_code", 130))
    except Exception as error:
        if not _received or os.environ.get("VITKIT_DEBUG") == "1":
            return _exit_code(error)
        # Some libraries catch the interrupt while they are imported, and fail with another error.
        output_failure()
        return fail("interrupted", code=interrupt_code())
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich exits with 1
            return 141
        if (failure := output_failure()) is not None:
            return _fail_output(failure)
        raise


def _exit_code(error: Exception) -> int:
    """Prints an error of the user or the system and returns the exit code. Re-raises all other errors."""
    debug = os.environ.get("VITKIT_DEBUG") == "1"
    # torch raises RuntimeError if memory is full, on any device.
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "memory" in str(error).lower() and not debug
    ):
        return fail("not enough memory; use smaller images, a smaller batch or a smaller model")
    if not isinstance(error, (ValueError, OSError, ImportError)):
        raise error
    if (failure := output_failure()) is not None:
        return _fail_output(failure)
    if debug:
        raise error
    return fail(error)


def _fail_output(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):  # `vitkit ... | head`
        return 141
    error.filename = "standard output"
    return fail(error)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise Terminated("stopped by SIGTERM")


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
