"""Tar shards read in place: an index of plain members, nothing extracted, nothing run."""

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 64 << 20
MAX_NAME = 1024
# Deserialising these runs code, so a shard that carries them is not data.
PICKLES = frozenset(["pkl", "pickle", "pyd", "pt", "pth", "joblib", "dill", "pyc", "pkl.gz"])


@dataclass(frozen=True)
class Member:
    """Where one file lies in a shard, in bytes."""

    offset: int
    size: int


def index(shard: Path) -> dict[str, dict[str, Member]]:
    """The members of a shard by sample and extension: {"0001": {"jpg": Member, "cls": Member}}, in the shard's order.

    A sample is what stands before the first dot of a file name, its folder included, as WebDataset has it. Raises
    ValueError that names shard and member for a link, a device, a pickle, a name that leaves its folder, a member that
    is there twice or too large, and for a shard that is cut short, compressed, or no tar file.
    """
    size = shard.stat().st_size
    samples: dict[str, dict[str, Member]] = {}
    try:
        # "r:" takes no compression: a compressed shard has no places to read from, and may unpack to anything.
        with tarfile.open(shard, "r:", errorlevel=2) as archive:
            for number, info in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise ValueError(f"{shard.name} has more than {MAX_MEMBERS:,} members")
                if info.isdir():
                    continue
                _check(info, shard)
                if info.offset_data + info.size > size:
                    raise ValueError(f"{shard.name} is cut short: '{_shown(info.name)}' ends behind its end")
                key, extension = _split(info.name)
                if extension in samples.setdefault(key, {}):
                    raise ValueError(f"{shard.name} has '{_shown(info.name)}' twice")
                samples[key][extension] = Member(info.offset_data, info.size)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(f"{shard.name} is not an uncompressed tar file: {type(error).__name__}") from None
    return samples


def read(shard: Path, member: Member) -> bytes:
    """The bytes of a member; ValueError where the shard has become shorter since it was indexed."""
    with shard.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"{shard.name} has become shorter since it was opened")
    return data


def _check(info: tarfile.TarInfo, shard: Path) -> None:
    """Refuses a member that is not a plain small file with a plain name."""
    shown = f"'{_shown(info.name)}'"
    # Sparse members are regular files to tarfile, but what they hold is not what lies in the archive.
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "no plain file"
        raise ValueError(f"{shard.name}: the member {shown} is {kind}; shards hold plain files")
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\0" in info.name or "\\" in info.name or len(info.name) > MAX_NAME:
        raise ValueError(f"{shard.name}: the member {shown} has a name that is no plain path")
    if _split(info.name)[1].rpartition(".")[2] in PICKLES or _split(info.name)[1] in PICKLES:
        raise ValueError(f"{shard.name}: the member {shown} is a pickle, which is never opened")
    if info.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{shard.name}: the member {shown} has {info.size:,} bytes; {MAX_MEMBER_BYTES:,} is the limit")


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _shown(name: str) -> str:
    """A stranger's name, fit for one line of a message."""
    text = name.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\0", "?")
    return text if len(text) <= 80 else text[:77] + "..."
