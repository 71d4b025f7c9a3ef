"""Indexes and reads uncompressed tar shards without extracting their files."""

import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vitkit.images.files import kind_of

MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 64 << 20
MAX_NAME = 1024
# Loading these formats can run code, so shards that contain them are rejected.
PICKLES = frozenset(["pkl", "pickle", "pyd", "pt", "pth", "joblib", "dill", "pyc", "pkl.gz"])


@dataclass(frozen=True)
class Member:
    """The position and size of a file in a tar shard, in bytes."""

    offset: int
    size: int


def index(shard: Path) -> dict[str, dict[str, Member]]:
    """Returns the files of a shard by sample name and extension: {"0001": {"jpg": Member, "cls": Member}}.

    Members are in the order of the shard. As in WebDataset, the name of a sample is the path up to the first dot of the
    file name. Raises ValueError that names shard and member for a link, a device, a pickle, a path outside the folder,
    a duplicate or oversized member, and for a shard that is truncated, compressed or not a tar file.
    """
    status = shard.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{shard.name} is {kind_of(status)}, not a file")
    size = status.st_size
    samples: dict[str, dict[str, Member]] = {}
    try:
        # "r:" accepts no compression: compressed shards have no random access, and their unpacked size is unbounded.
        with tarfile.open(shard, "r:", errorlevel=2) as archive:
            for number, info in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise ValueError(f"{shard.name} has more than {MAX_MEMBERS:,} members")
                if info.isdir():
                    continue
                _check(info, shard)
                if info.offset_data + info.size > size:
                    raise ValueError(f"{shard.name} is truncated: '{_shown(info.name)}' extends beyond the end")
                key, extension = _split(info.name)
                if extension in samples.setdefault(key, {}):
                    raise ValueError(f"{shard.name} contains '{_shown(info.name)}' twice")
                samples[key][extension] = Member(info.offset_data, info.size)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(f"{shard.name} is not an uncompressed tar file: {type(error).__name__}") from None
    return samples


def read(shard: Path, member: Member) -> bytes:
    """Returns the bytes of a file in a shard. Raises ValueError if the shard was shortened after it was indexed."""
    with shard.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"{shard.name} was truncated after it was opened; do not change files during a run")
    return data


def _check(info: tarfile.TarInfo, shard: Path) -> None:
    """Raises ValueError unless an archive member is a regular file of limited size with a safe name."""
    shown = f"'{_shown(info.name)}'"
    # tarfile counts sparse members as regular files, but their content is not stored contiguously.
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "not a regular file"
        raise ValueError(f"{shard.name}: the member {shown} is {kind}; shards may contain only regular files")
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\0" in info.name or "\\" in info.name or len(info.name) > MAX_NAME:
        raise ValueError(f"{shard.name}: the member {shown} has an unsafe path")
    if _split(info.name)[1].rpartition(".")[2] in PICKLES or _split(info.name)[1] in PICKLES:
        raise ValueError(f"{shard.name}: the member {shown} is a pickle; pickles are not supported")
    if info.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{shard.name}: the member {shown} has {info.size:,} bytes; the limit is {MAX_MEMBER_BYTES:,}")


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _shown(name: str) -> str:
    """Returns an untrusted name, escaped and shortened for an error message."""
    text = name.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\0", "?")
    return text if len(text) <= 80 else text[:77] + "..."
