"""From what a user types to files on this disk: a folder, a file, a subtree of a file, or a name on the Hub."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit import models
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import SUFFIXES, open_weights
from vitkit.checkpoints.hub import near, pull
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.tensors import Tensors
from vitkit.config import nearest

# In the order they are looked for in a folder.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Timm's and transformers' words for the sizes and patches of our presets.
ABBREVIATIONS = (
    *((rf"-{word}(?=-|/|\d|$)", f"-{short}") for word, short in (("tiny", "ti"), ("small", "s"), ("base", "b"))),
    *((rf"-{word}(?=-|/|\d|$)", f"-{short}") for word, short in (("large", "l"), ("huge", "h"), ("giant", "g"))),
    (r"-patch(\d+)", r"/\1"),
    (r"(/\d+)-\d{3}$", r"\1"),
)
SUBTREE = re.compile(r"(?P<path>.+\.npz):(?P<tree>[\w./-]+)")


@dataclass(frozen=True, kw_only=True)
class Files:
    """A checkpoint on this disk, nothing read but headers and config files."""

    path: Path
    tensors: Tensors
    config: Mapping[str, Any] | None
    preprocessor: Mapping[str, Any] | None
    revision: str | None = None


def locate(source: str, revision: str | None) -> Files:
    """The files of a source; CheckpointError where there is nothing of that name."""
    subtree = SUBTREE.fullmatch(source)
    path = Path(subtree["path"] if subtree and not Path(source).exists() else source).expanduser()
    commit = None
    if not path.exists():
        path, commit = _from_hub(source, path, revision)
    elif revision is not None:
        raise CheckpointError(f"{source} is on this disk: a revision is of a name on the Hub")
    weights = _weights_in(path) if path.is_dir() else path
    tensors = open_weights(weights)
    if subtree is not None and weights.suffix == ".npz":
        tensors = _subtree(tensors, subtree["tree"])
    # Files beside a weights file belong to it only where the name says that it is a checkpoint folder's own.
    beside = path.is_dir() or weights.name in WEIGHTS
    return Files(
        path=weights,
        tensors=tensors,
        config=_json(weights.parent, "config.json") if beside else None,
        preprocessor=_preprocessor(weights.parent) if beside else None,
        revision=commit,
    )


def _from_hub(source: str, path: Path, revision: str | None) -> tuple[Path, str | None]:
    name, at, pinned = source.partition("@")
    if not HUB_ID.fullmatch(name) or path.suffix.lower() in SUFFIXES:
        presets = "" if path.suffix.lower() in SUFFIXES else near_presets(name)
        raise CheckpointError(f"there is no file or folder {source} here{_near(path)}{presets}")
    if name in models.presets():
        raise CheckpointError(
            f"{name} is an architecture without weights: models.build(models.preset({name!r})) makes fresh ones"
        )
    if at and revision is not None and pinned != revision:
        raise CheckpointError(f"two revisions: {pinned} in {source}, and {revision}")
    try:
        return pull(name, pinned or revision)
    except CheckpointError as error:
        cached = [each for each in near(name) if each != name]
        hint = f"; the cache has {' and '.join(cached)}" if cached else ""
        here = f"and there is no file or folder {source} here{_near(path)}"
        raise CheckpointError(f"{error}{hint} ({here}){near_presets(name)}") from None


def near_presets(name: str) -> str:
    """The end of an error sentence: the presets that an architecture's name is like; "" where it is like none."""
    presets = models.presets()
    spoken = name.lower().replace("_", "-")
    for word, short in ABBREVIATIONS:
        spoken = re.sub(word, short, spoken)
    family = re.split(r"[-/]", spoken)[0]
    near = difflib.get_close_matches(spoken, presets, n=3, cutoff=0.6)
    if not near or family not in {re.split(r"[-/]", preset)[0] for preset in presets}:
        return ""
    return f"; presets are architectures without weights{nearest(spoken, presets)}"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = difflib.get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in names)}?" if names else ""


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".json" and path.is_file()
    )
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder} has several weights files, name one: {listing([path.name for path in others])}"
        )
    if "export" in (_json(folder, "config.json") or {}):
        raise CheckpointError(f"{folder} is an exported model, to predict and evaluate with: its checkpoint is wanted")
    hint = f"; {folder / 'best'} has" if (folder / "best" / WEIGHTS[0]).is_file() else ""
    raise CheckpointError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}{hint}")


def _subtree(tensors: Tensors, tree: str) -> Tensors:
    names = {
        name[name.index(f"/{tree}/") + len(tree) + 1 :].lstrip("/"): name
        for name in (f"/{name}" for name in tensors.infos)
        if f"/{tree}/" in name
    }
    if not names:
        tops = sorted({"/".join(name.split("/")[:2]) for name in tensors.infos})
        raise CheckpointError(f"the archive has no subtree '{tree}'; there is {listing(tops)}")
    return tensors.under({new: old.removeprefix("/") for new, old in names.items()})


def _preprocessor(folder: Path) -> Mapping[str, Any] | None:
    return _json(folder, "preprocessor_config.json") or _json(folder, "processor_config.json")


def _json(folder: Path, name: str) -> Mapping[str, Any] | None:
    return read_json(folder / name) if (folder / name).is_file() else None
