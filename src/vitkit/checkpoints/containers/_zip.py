"""Checks the size of zip archives before `zipfile` creates an object for each member."""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.regular import open_regular

MAX_MEMBERS = 20_000
MAX_DIRECTORY = 8 << 20
END_RECORD, ZIP64_LOCATOR, MAX_COMMENT = 22, 20, 65_535


def check_directory(path: Path, kind: str) -> None:
    """Raises CheckpointError if the zip directory is missing or too large. `kind` is the file type in the message."""
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_RECORD - MAX_COMMENT - ZIP64_LOCATOR))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + END_RECORD > len(tail):
            raise CheckpointError(
                f"not a complete {kind}: the zip directory at the end is missing; download or copy the file again"
            )
        entries, length = struct.unpack_from("<HL", tail, at + 10)
        locator = at - ZIP64_LOCATOR
        if locator >= 0 and tail[locator:at].startswith(b"PK\6\7"):
            file.seek(min(struct.unpack_from("<Q", tail, locator + 8)[0], size))
            record = file.read(56)
            if len(record) == 56:
                entries, length = struct.unpack_from("<QQ", record, 32)
    if entries > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise CheckpointError(
            f"the zip archive has {entries:,} members in a directory of {length:,} bytes; "
            f"the limits are {MAX_MEMBERS:,} members and {MAX_DIRECTORY:,} bytes"
        )


@contextmanager
def damaged_archives() -> Iterator[None]:
    """Converts the exceptions that `zipfile` raises for a damaged archive to CheckpointError.

    RuntimeError is also raised for unsupported versions and compression, ValueError for member names in a wrong
    encoding, OSError (EINVAL) for offsets outside the file.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the zip archive is damaged ({str(error)[:120]}); download or copy it again") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise CheckpointError(
            "the zip archive is damaged (an offset is outside the file); download or copy it again"
        ) from None


def check_total(members: Iterable[zipfile.ZipInfo], size: int, limit: int) -> None:
    """Raises CheckpointError if the members of an archive unpack to more than `limit` bytes."""
    unpacked = sum(member.file_size for member in members)
    if unpacked > limit:
        raise CheckpointError(
            f"the zip archive of {size:,} bytes unpacks to {unpacked:,} bytes, like a zip bomb; the limit is {limit:,}"
        )
