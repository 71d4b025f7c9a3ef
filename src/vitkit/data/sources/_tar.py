"""Indexes and reads uncompressed tar shards without extracting their files."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vitkit.regular import NotRegularError, open_regular

MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 64 << 20
MAX_NAME = 1024
BLOCK = tarfile.BLOCKSIZE
# Where the headers of all common tar files (ustar, pax, GNU) have this signature, in bytes.
MAGIC, MAGIC_OFFSET = b"ustar", 257
CHUNK = 1 << 20
# Extended headers (long names, pax) are read into memory. Each takes two reads; a member of tar or GNU tar has up to 3.
MAX_EXTENDED_BYTES = 1 << 16
MAX_READS = 16
# After this number of damaged parts, the rest of a shard is left out: each takes a new search for a header.
MAX_DAMAGES = 1_000
# Loading these formats can run code, so shards that contain them are rejected.
PICKLES = frozenset(["pkl", "pickle", "pyd", "pt", "pth", "joblib", "dill", "pyc", "pkl.gz"])


@dataclass(frozen=True)
class Member:
    """The position and size of a file in a tar shard, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Damage:
    """A part of a shard that cannot be read: the reason, and its size in bytes."""

    reason: str
    size: int


@dataclass
class Shard:
    """The files of a shard by sample name and extension, such as {"0001": {"jpg": Member}}, and its damaged parts.

    Samples are in the order of the shard. `size` is the size of the file in bytes.
    """

    samples: dict[str, dict[str, Member]] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    size: int = 0


def index(path: Path) -> Shard:
    """Indexes the files of a shard. As in WebDataset, the name of a sample ends at the first dot of the file name.

    Damaged parts are left out and named. After damaged data the next valid header is searched, so that only the files
    before it are lost. Raises ValueError that names shard and member for a link, a device, a pickle, a path outside
    the folder and a duplicate member.
    """
    shard = Shard()
    try:
        with open_regular(path) as file:
            shard.size = os.fstat(file.fileno()).st_size
            for number, member in enumerate(_members(file, shard.size)):
                if number >= MAX_MEMBERS:
                    raise ValueError(f"{path.name} has more than {MAX_MEMBERS:,} members")
                if isinstance(member, Damage):
                    shard.damages.append(Damage(f"{path.name} {member.reason}", member.size))
                elif not member.isdir():
                    _add(shard, member, path)
    except NotRegularError as error:
        shard.damages.append(Damage(str(error), 0))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        shard.damages.append(Damage(f"{path.name} cannot be read: {reason}", shard.size))
    return shard


def _add(shard: Shard, info: tarfile.TarInfo, path: Path) -> None:
    """Adds a member to the index, or a damage if it cannot be read. Raises the errors of `index`."""
    _check(info, path)
    shown = f"'{_shown(info.name)}'"
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        reason = f"{path.name}: the member {shown} has {info.size:,} bytes; the limit is {MAX_MEMBER_BYTES:,}"
        shard.damages.append(Damage(reason, min(max(info.size, 0), shard.size)))
    elif info.offset_data + info.size > shard.size:
        reason = f"{path.name} is truncated: {shown} extends beyond the end"
        shard.damages.append(Damage(reason, shard.size - info.offset))
    else:
        key, extension = _split(info.name)
        if extension not in shard.samples.setdefault(key, {}):
            shard.samples[key][extension] = Member(info.offset_data, info.size)
        elif shard.damages:  # the extended header with the rest of a long name may be lost
            shard.damages.append(Damage(f"{path.name} contains {shown} twice after damaged data", info.size))
        else:
            raise ValueError(f"{path.name} contains {shown} twice")


def _members(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo | Damage]:
    """Yields the members of a tar file in order, and a `Damage` for data between them that belong to no member.

    Archives after the end marker of the first, as `cat a.tar b.tar` writes them, are read, too.
    """
    position = damages = 0
    while position < size:
        if damages == MAX_DAMAGES:
            yield Damage(
                f"has {damages:,} damaged parts; the rest, from byte {position:,} on, is left out", size - position
            )
            return
        end = position
        for info in _archive(file, position):
            yield info
            end = max(end + BLOCK, info.offset_data + -(-info.size // BLOCK) * BLOCK)
        if end >= size:
            return
        following = _next_header(file, end + BLOCK, size)
        if end == 0 and following == size:
            break
        if _has_data(file, end, following):
            yield Damage(f"has damaged data from byte {end:,} to byte {following:,}", following - end)
            damages += 1
        position = following
    if position == 0:
        yield Damage("is not an uncompressed tar file, or contains no files", size)


class _Headers:
    """A file of which `tarfile` reads headers only: it raises ValueError for a header that is too long.

    A chain of extended headers is also too long: `tarfile` reads it recursively. `reads` counts the reads for a member.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.reads = 0

    def read(self, size: int) -> bytes:
        """Reads bytes. Raises ValueError above the limits."""
        self.reads += 1
        if size > MAX_EXTENDED_BYTES or self.reads > MAX_READS:
            raise ValueError(f"a header has more than {MAX_EXTENDED_BYTES:,} bytes or {MAX_READS} parts")
        return self.file.read(size)


def _archive(file: BinaryIO, position: int) -> Iterator[tarfile.TarInfo]:
    """Yields the members of the archive at a position, up to its end marker or the first invalid header."""
    file.seek(position)
    headers = _Headers(file)
    try:
        # "r:" accepts no compression: compressed shards have no random access, and their unpacked size is unbounded.
        with tarfile.open(fileobj=headers, mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                headers.reads = 0
                yield info
    except (tarfile.TarError, EOFError, OverflowError, ValueError):
        return


def _next_header(file: BinaryIO, start: int, size: int) -> int:
    """Returns the position of the first valid header from `start` on, or `size` if there is none."""
    file.seek(start)
    for chunk_start in range(start, size, CHUNK):
        chunk = file.read(CHUNK)
        at = chunk.find(MAGIC)
        while at >= 0:
            block = at - MAGIC_OFFSET
            if block >= 0 and block % BLOCK == 0 and _is_header(chunk[block : block + BLOCK]):
                return chunk_start + block
            at = chunk.find(MAGIC, at + 1)
    return size


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _has_data(file: BinaryIO, start: int, stop: int) -> bool:
    """Returns whether a byte in a range of a file is not zero. Zeros mark the end of an archive and fill it up."""
    file.seek(start)
    return any(file.read(min(CHUNK, stop - here)).strip(b"\0") for here in range(start, stop, CHUNK))


def read(shard: Path, member: Member) -> bytes:
    """Returns the bytes of a file in a shard. Raises ValueError if the shard was shortened after it was indexed."""
    with open_regular(shard) as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"{shard.name} was truncated after it was opened; do not change files during a run")
    return data


def _check(info: tarfile.TarInfo, shard: Path) -> None:
    """Raises ValueError unless an archive member is a regular file with a safe name."""
    shown = f"'{_shown(info.name)}'"
    # tarfile counts sparse members as regular files, but their content is not stored contiguously.
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "not a regular file"
        raise ValueError(f"{shard.name}: the member {shown} is {kind}; shards may contain only regular files")
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\0" in info.name or "\\" in info.name or len(info.name) > MAX_NAME:
        raise ValueError(
            f"{shard.name}: the member {shown} has an unsafe path; expected a relative path of at most {MAX_NAME} "
            "characters without '..' and backslashes"
        )
    if _split(info.name)[1].rpartition(".")[2] in PICKLES or _split(info.name)[1] in PICKLES:
        raise ValueError(f"{shard.name}: the member {shown} is a pickle; pickles are not supported")


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _shown(name: str) -> str:
    """Returns an untrusted name, escaped and shortened for an error message."""
    text = name.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\0", "?")
    return text if len(text) <= 80 else text[:77] + "..."
