"""Data source `webdataset:shards/train-{000..099}.tar`: tar shards with files such as 0001.jpg and 0001.cls.

The label is the content of `.cls` (or `.cls.txt`), or the field `label` (or `cls`) of `.json`: a class index, in JSON
also a class name, or a list of them. Floats are targets of a regression. `#target=age` takes any numbers as targets,
from the file `0001.age` or from the field `age` of `0001.json`, also several (`#target=x,target=y`); `#label=species`
selects a label in the same way. Class names are the lines of a `classes.txt` in the same folder, else indices.
"""

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.data import Source
from vitkit.data.sources import distinct_names, split_of
from vitkit.data.sources._columns import Labels, Table, encode, parse
from vitkit.data.sources._tar import Damage, Member, index, read
from vitkit.regular import read_text

SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "npy")
LABELS = ("cls", "cls.txt", "json")
FIELDS = ("label", "cls")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image in a shard with its label or targets.

    `problem` says why there are none; `has_file` is false if the shard has no file for them.
    """

    shard: Path
    image: Member
    key: str
    value: Any = None
    problem: str = ""
    has_file: bool = True


class WebDataset(Table):
    """The samples of tar shards, in order. The key of an image is the shard name with the sample name.

    Without any label file the images have no labels. Damaged parts of shards, and samples whose label cannot be read or
    was lost with them, are left out and named in `skipped`. Raises ValueError that names the shard if nothing can be
    read, for a missing label, for a label of the wrong type, and for the members that `_tar.index` rejects.
    """

    def __init__(self, shards: list[Path], chosen: Mapping[str, str]):
        found: list[Sample] = []
        damages: list[Damage] = []
        incomplete: set[Path] = set()
        size = 0
        for path in shards:
            shard = index(path)
            size += shard.size
            damages += shard.damages
            incomplete |= {path} if shard.damages else set()
            found += [
                _sample(path, key, image, members, chosen)
                for key, members in shard.samples.items()
                if (image := _image(members, chosen)) is not None
            ]
        labelled = [sample for sample in found if not sample.problem]
        missing = [sample for sample in found if not sample.has_file and sample.shard not in incomplete]
        if labelled and missing:
            raise ValueError(missing[0].problem)
        if labelled:
            super().__init__(_encoded(labelled, shards[0].parent, chosen))
        elif found and not any(sample.has_file for sample in found):
            super().__init__(Labels((), [-1] * len(found), unlabelled=found[0].problem))
        else:
            reasons = [sample.problem for sample in found if sample.has_file] + [each.reason for each in damages]
            raise ValueError(next(iter(reasons), f"{shards[0].name} has no images ({', '.join(SUFFIXES[:4])}, ...)"))
        samples = labelled or found
        self.images = [(sample.shard, sample.image) for sample in samples]
        names = dict(zip(shards, distinct_names([str(path) for path in shards]), strict=True))
        self.keys = [names[each.shard] + each.key.removeprefix(each.shard.name) for each in samples]
        left_out = [sample.problem for sample in found if sample.problem] if labelled else []
        self.skipped = (*(damage.reason for damage in damages), *left_out)
        bytes_per_sample = max(size - sum(damage.size for damage in damages), 1) / len(found)
        self.lost = len(left_out) + sum(max(1, round(damage.size / bytes_per_sample)) for damage in damages)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        return read(*self.images[index]), self.keys[index]

    def key(self, index: int) -> str:
        """Returns the shard name with the sample name."""
        return self.keys[index]


def _image(members: Mapping[str, Member], chosen: Mapping[str, str]) -> Member | None:
    """Returns the image of a sample, or None for other files, such as a note or a checksum."""
    names = (chosen["image"],) if "image" in chosen else SUFFIXES
    return next((members[name] for name in names if name in members), None)


def _sample(shard: Path, key: str, image: Member, members: Mapping[str, Member], chosen: Mapping[str, str]) -> Sample:
    """Reads the label or the targets of a sample."""
    known = {"shard": shard, "image": image, "key": f"{shard.name}/{key}"}
    names = chosen.get("target", chosen.get("label", "")).split(",")
    values = []
    for name in names:
        kind = name if name in members else "json" if name else next((each for each in LABELS if each in members), "")
        if kind not in members:
            wanted = f"'.{name}'" if name else ".cls or .json"
            problem = f"{shard.name}: the sample '{key}' has no label; expected a {wanted} file"
            return Sample(**known, problem=problem, has_file=False)
        try:
            value = _parsed(read(shard, members[kind]).decode("utf-8"), text=kind == name)
        except (ValueError, RecursionError, OSError):
            problem = f"{shard.name}: the label of '{key}' is neither a class index nor JSON"
            return Sample(**known, problem=problem)
        if isinstance(value, dict):
            value = value.get(name) if name else next((value[each] for each in FIELDS if each in value), None)
        values.append(value)
    return Sample(**known, value=values[0] if len(names) == 1 else tuple(values))


def _parsed(content: str, *, text: bool) -> Any:
    """Returns the JSON value in a file. With `text`, other content is a class name."""
    try:
        return json.loads(content)
    except ValueError:
        if text and content.strip():
            return content.strip()
        raise


def _encoded(samples: Sequence[Sample], folder: Path, chosen: Mapping[str, str]) -> Labels:
    """Returns the labels or targets of the samples. Raises ValueError that names the sample of an invalid one."""
    names = folder / "classes.txt"
    text = read_text(names) if names.exists() else ""
    return encode(
        [sample.value for sample in samples],
        tuple(chosen.get("target", chosen.get("label", "label")).split(",")),
        tuple(line.strip() for line in text.splitlines() if line.strip()) or None,
        lambda index: samples[index].key,
        targets="target" in chosen,
        unlabelled=f"{samples[0].shard.name}: no sample has a label in its JSON",
    )


def open_source(location: str) -> dict[str, Source]:
    """Opens tar shards. Returns the splits found in the file names, or the split `all` if a file name has none.

    Raises ValueError if there are no shards.
    """
    location, chosen = parse(location)
    if "split" in chosen:
        raise ValueError(
            "the split of a shard is given by its file name, such as train-0.tar; '#split=' is for tables only"
        )
    found = _shards(location)
    if not found:
        raise ValueError(f"no tar shards at '{location}'; expected webdataset:FOLDER or webdataset:a-{{00..99}}.tar")
    named: dict[str, list[Path]] = {}
    for shard in found:
        named.setdefault(split_of(shard.name) or "all", []).append(shard)
    if "all" in named and len(named) > 1:
        named = {"all": found}
    return {split: WebDataset(shards, chosen) for split, shards in named.items()}


def _shards(location: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    names = [text for pattern in _expand(str(path)) for text in (sorted(glob.glob(pattern)) or [pattern])]
    missing = [name for name in names if not Path(name).exists()]
    if missing and not glob.has_magic(location):
        raise ValueError(f"the tar shard '{missing[0]}' does not exist")
    return [Path(name) for name in names if name not in missing]


def _expand(text: str) -> list[str]:
    """Returns the file names in a range of shards, such as `a-{08..11}.tar`."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if match is None:
        return [text]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= 1_000_000:
        raise ValueError(f"'{match[0]}' is not a valid range of shards; expected {{FIRST..LAST}} as in {{00..99}}")
    width = len(match[1]) if match[1].startswith("0") else 0
    numbers = [str(number).zfill(width) for number in range(first, last + 1)]
    return [name for number in numbers for name in _expand(text[: match.start()] + number + text[match.end() :])]
