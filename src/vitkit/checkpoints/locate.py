"""Finds the files of a source: a folder, a file, a subtree of a file, or a Hub id."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from vitkit import models
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import SUFFIXES, open_weights
from vitkit.checkpoints.hub import download, similar_cached_models
from vitkit.checkpoints.json_files import Json, read_json
from vitkit.checkpoints.tensors import Tensors
from vitkit.config import nearest

# File names in a folder, in order of preference.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Names of sizes and patches in timm and transformers, as patterns for those in preset names.
ABBREVIATIONS = (
    *((rf"-{word}(?=-|/|\d|$)", f"-{short}") for word, short in (("tiny", "ti"), ("small", "s"), ("base", "b"))),
    *((rf"-{word}(?=-|/|\d|$)", f"-{short}") for word, short in (("large", "l"), ("huge", "h"), ("giant", "g"))),
    (r"-patch(\d+)", r"/\1"),
    (r"(/\d+)-\d{3}$", r"\1"),
)
SUBTREE = re.compile(r"(?P<path>.+\.npz):(?P<tree>[\w./-]+)")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of a local checkpoint; only headers and config files have been read."""

    path: Path
    tensors: Tensors
    config: Json | None
    preprocessor: Json | None
    revision: str | None = None


def locate(source: str, revision: str | None) -> Files:
    """Returns the files of a path or Hub id; CheckpointError if it does not exist."""
    subtree = SUBTREE.fullmatch(source)
    path = Path(subtree["path"] if subtree and not Path(source).exists() else source).expanduser()
    commit = None
    if not path.exists():
        path, commit = _from_hub(source, path, revision)
    elif revision is not None:
        raise CheckpointError(f"{source} is a local path: revision is for Hub ids only")
    weights = _weights_in(path) if path.is_dir() else path
    tensors = open_weights(weights)
    if subtree is not None and weights.suffix == ".npz":
        tensors = _subtree(tensors, subtree["tree"])
    # JSON files next to a weights file are used only if it has a standard name.
    has_json = path.is_dir() or weights.name in WEIGHTS
    return Files(
        path=weights,
        tensors=tensors,
        config=_json(weights.parent, "config.json") if has_json else None,
        preprocessor=_preprocessor(weights.parent) if has_json else None,
        revision=commit,
    )


def _from_hub(source: str, path: Path, revision: str | None) -> tuple[Path, str | None]:
    name, at, pinned = source.partition("@")
    if not HUB_ID.fullmatch(name) or path.suffix.lower() in SUFFIXES:
        presets = "" if path.suffix.lower() in SUFFIXES else suggest_presets(name)
        raise CheckpointError(f"no such file or folder: {source}{_suggest_paths(path)}{presets}")
    if name in models.presets():
        raise CheckpointError(
            f"{name} is an architecture without weights: "
            f"models.build(models.preset({name!r})) makes a randomly initialized model"
        )
    if at and revision is not None and pinned != revision:
        raise CheckpointError(f"{source} has revision {pinned}, but revision={revision}: pass only one")
    try:
        return download(name, pinned or revision)
    except CheckpointError as error:
        cached = [each for each in similar_cached_models(name) if each != name]
        hint = f"; the cache has {' and '.join(cached)}" if cached else ""
        here = f"and no such local file or folder{_suggest_paths(path)}"
        raise CheckpointError(f"{error}{hint} ({here}){suggest_presets(name)}") from None


def suggest_presets(name: str) -> str:
    """Returns an error message suffix that suggests similar presets; "" if there are none."""
    presets = models.presets()
    short_name = name.lower().replace("_", "-")
    for word, short in ABBREVIATIONS:
        short_name = re.sub(word, short, short_name)
    family = re.split(r"[-/]", short_name)[0]
    similar = difflib.get_close_matches(short_name, presets, n=3, cutoff=0.6)
    if not similar or family not in {re.split(r"[-/]", preset)[0] for preset in presets}:
        return ""
    return f"; presets are architectures without weights{nearest(short_name, presets)}"


def _suggest_paths(path: Path) -> str:
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
            f"{folder} has several weights files, pass one of them: {listing([path.name for path in others])}"
        )
    if "export" in (_json(folder, "config.json") or {}):
        raise CheckpointError(
            f"{folder} is an exported model, which can only predict and evaluate; pass its checkpoint"
        )
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
        raise CheckpointError(f"the archive has no subtree '{tree}'; it has {listing(tops)}")
    return tensors.select({new: old.removeprefix("/") for new, old in names.items()})


def _preprocessor(folder: Path) -> Json | None:
    return _json(folder, "preprocessor_config.json") or _json(folder, "processor_config.json")


def _json(folder: Path, name: str) -> Json | None:
    return read_json(folder / name) if (folder / name).is_file() else None
