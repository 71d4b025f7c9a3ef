"""Finds the files of a checkpoint by its source: a folder, a file, a subtree of a file, or a Hub id."""

import dataclasses
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from vitkit import models
from vitkit.checkpoints.adapters import FILES as ADAPTERS
from vitkit.checkpoints.adapters import is_adapter, open_adapter
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import SUFFIXES, open_weights
from vitkit.checkpoints.formats.timm._architectures import architectures
from vitkit.checkpoints.hub import download, similar_cached_models
from vitkit.checkpoints.json_files import Json, read_json
from vitkit.checkpoints.tensors import Tensors

# File names in a folder, in order of preference.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://\S*")
HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?")
# Files of a training run that are not weights.
STATE_FILES = re.compile(
    r"(optimizer|scheduler|scaler|training_args|random_states_\d+|rng_state(_\d+)?|.*optim_states)\.\w+"
)
# Files of other frameworks and of sharded training, and what to do with them.
OTHERS: tuple[tuple[str, str], ...] = (
    ("latest", "it is a DeepSpeed checkpoint: run its zero_to_fp32.py and pass the file that it writes"),
    (
        ".metadata",
        "it is a sharded checkpoint of torch.distributed: convert it with "
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth`",
    ),
    ("tf_model.h5", "it has only TensorFlow weights: convert them to model.safetensors with transformers"),
    (
        "saved_model.pb",
        "it has only TensorFlow weights: convert them to model.safetensors with transformers",
    ),
    ("manifest.ocdbt", "it is an Orbax checkpoint: save the parameters as a flat .npz"),
)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a local checkpoint, with parsed config files. Of the weights file, only the header has been read.

    `subtree` is the part of the file that was asked for, "" for all of it.
    """

    path: Path
    tensors: Tensors
    config: Json | None
    preprocessor: Json | None
    revision: str | None = None
    subtree: str = ""


def locate(source: str, revision: str | None) -> Files:
    """Returns the files of a local path or Hub id. Raises CheckpointError if the source does not exist."""
    if URL.fullmatch(source):
        raise CheckpointError(_url_error(source))
    name, tree = _split(source)
    path = Path(name).expanduser()
    commit = None
    if not path.exists():
        path, commit = _from_hub(source, path, revision)
    elif revision is not None:
        raise CheckpointError(f"{source} is a local path, but revision is only for Hub ids")
    if folder := _adapter(path):
        tensors, config = open_adapter(folder, _open_base)
        return Files(path=folder, tensors=tensors, config=config, preprocessor=_preprocessor(folder), revision=commit)
    weights = _weights_in(path) if path.is_dir() else path
    tensors = open_weights(weights)
    if tree:
        tensors = _subtree(tensors, tree, "/" if weights.suffix == ".npz" else ".")
    # JSON files next to a weights file are used only if it has a standard name.
    has_json = path.is_dir() or weights.name in WEIGHTS
    config = _json(weights.parent, "config.json") if has_json else None
    config, preprocessor = _timm_wrapper(config, _preprocessor(weights.parent) if has_json else None)
    return Files(path=weights, tensors=tensors, config=config, preprocessor=preprocessor, revision=commit, subtree=tree)


def _split(source: str) -> tuple[str, str]:
    """Splits a source FILE:TREE into FILE and TREE if FILE exists and no file is named FILE:TREE."""
    name, _, tree = source.rpartition(":")
    if name and tree and not Path(source).expanduser().exists() and Path(name).expanduser().exists():
        return name, tree.strip("./")
    return source, ""


def _url_error(source: str) -> str:
    if found := HUB_URL.fullmatch(source):
        return f"vitkit does not load from URLs; pass the Hub id {found[1]}"
    return "vitkit does not load from URLs; download the file and pass its path"


def _adapter(path: Path) -> Path | None:
    """Returns the folder of a peft adapter, or None if the source has complete weights or no adapter."""
    if path.is_dir():
        return path if is_adapter(path) and not any((path / name).is_file() for name in WEIGHTS) else None
    return path.parent if path.name in ADAPTERS and is_adapter(path.parent) else None


def _open_base(base: str) -> tuple[Tensors, Json | None]:
    if (path := Path(base).expanduser()).exists() and _adapter(path):
        raise CheckpointError(
            f"the base model {base} is an adapter, too; merge it into its own base model with peft first"
        )
    files = locate(base, None)
    return files.tensors, files.config


def _timm_wrapper(config: Json | None, preprocessor: Json | None) -> tuple[Json | None, Json | None]:
    """Converts a config.json of transformers' TimmWrapper to the layout of timm's own config.json."""
    if config is None or config.get("model_type") != "timm_wrapper":
        return config, preprocessor
    data = {key: value for key, value in config.items() if key != "model_type"}
    if config.get("architectures") == ["TimmWrapperModel"]:
        data["num_classes"] = 0
    if preprocessor is not None and "pretrained_cfg" in preprocessor:
        data.setdefault("pretrained_cfg", preprocessor["pretrained_cfg"])
        preprocessor = None
    return data, preprocessor


def _from_hub(source: str, path: Path, revision: str | None) -> tuple[Path, str | None]:
    name, at, pinned = source.partition("@")
    if not HUB_ID.fullmatch(name) or path.suffix.lower() in SUFFIXES:
        presets = "" if path.suffix.lower() in SUFFIXES else suggest_presets(name)
        raise CheckpointError(f"no such file or folder: {source}{_suggest_paths(path)}{presets}")
    if name in models.presets():
        raise CheckpointError(
            f"{name} is an architecture, not a checkpoint; "
            f"models.build(models.preset({name!r})) creates a randomly initialized model"
        )
    if at and revision is not None and pinned != revision:
        raise CheckpointError(f"{source} names the revision {pinned}, but revision={revision}; pass only one")
    try:
        return download(name, pinned or revision)
    except CheckpointError as error:
        cached = [each for each in similar_cached_models(name) if each != name]
        hint = f"; the cache has {' and '.join(cached)}" if cached else ""
        here = f"and no such local file or folder{_suggest_paths(path)}"
        raise CheckpointError(f"{error}{hint} ({here}){suggest_presets(name)}") from None


def is_architecture(source: str) -> bool:
    """Returns whether `source` is an architecture (`vit-b/16`, `vit_base_patch16_224`), not a checkpoint.

    A local path is a checkpoint, and so is an id of the Hub, such as google/vit-base-patch16-224.
    """
    known = source in models.presets() or ("/" not in source and models.canonical_name(source) is not None)
    return known and not Path(source).expanduser().exists()


def suggest_presets(name: str) -> str:
    """Returns the end of an error message for a name like that of an architecture, or "" for other names."""
    preset, timm = models.canonical_name(name), architectures().get(name.partition(".")[0])
    if timm is not None:
        hub = next((tag for tag, weights in timm.weights.items() if weights.get("hf_hub_id") == "timm/"), None)
        published = f"; timm's weights for it are timm/{timm.name}{f'.{hub}' if hub else ''}" if hub is not None else ""
        return f"; it is an architecture{'' if preset is None else f' ({preset})'}, not a checkpoint{published}"
    if preset is not None:
        return f"; '{preset}' is an architecture, not a checkpoint"
    near = models.did_you_mean(name)
    family = re.split(r"[-/_]", name.lower())[0]
    if "did you mean" not in near or family not in {re.split(r"[-/]", each)[0] for each in models.presets()}:
        return ""
    return f"; presets are architectures, not checkpoints{near}"


def _suggest_paths(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = difflib.get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in names)}?" if names else ""


def _weights_in(folder: Path) -> Path:
    if "export" in (_json(folder, "config.json") or {}):
        raise CheckpointError(
            f"{folder} is an exported model, which supports only prediction and evaluation; pass the "
            "checkpoint from which it was exported"
        )
    for name in WEIGHTS:
        if (folder / name).exists():  # what is not a regular file is rejected when it is opened
            return folder / name
    others = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.suffix.lower() != ".json"
        and path.is_file()
        and not STATE_FILES.fullmatch(path.name)
    )
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder} has several weights files; pass one of them: {listing([path.name for path in others])}"
        )
    raise CheckpointError(f"{folder} has no weights file; expected one of {', '.join(WEIGHTS)}{_hint(folder)}")


def _hint(folder: Path) -> str:
    """Returns the end of the error message for a folder without weights, which suggests what to load instead."""
    if (folder / "best" / WEIGHTS[0]).is_file():
        return f"; pass {folder / 'best'}, which has weights"
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d{1,12})", path.name)) and path.is_dir()
    }
    has = {step: path for step, path in steps.items() if any((path / name).is_file() for name in (*WEIGHTS, *ADAPTERS))}
    if has:
        count = f", the newest of {len(has)}" if len(has) > 1 else ""
        return f"; pass {has[max(has)]}{count}"
    return next((f"; {text}" for name, text in OTHERS if (folder / name).exists()), "")


def _subtree(tensors: Tensors, tree: str, separator: str) -> Tensors:
    """Returns the tensors of the subtree `tree` of a file. Raises CheckpointError unless exactly one has this name."""
    inner = f"{separator}{tree}{separator}"
    names: dict[str, str] = {}
    prefixes: dict[str, None] = {}
    for name in tensors.infos:
        at = f"{separator}{name}".find(inner)
        if at >= 0:
            start = at + len(inner) - 1
            names[f"{name[:start]}\0{name[start:]}"] = name
            prefixes[name[:start]] = None
    if not names:
        tops = sorted({separator.join(name.split(separator)[: 2 if separator == "/" else 1]) for name in tensors.infos})
        raise CheckpointError(f"the file has no subtree '{tree}'; it has {listing(tops)}")
    if len(prefixes) > 1:
        paths = [prefix.rstrip(separator) for prefix in prefixes]
        raise CheckpointError(f"the file has {len(paths)} subtrees named '{tree}'; pass one of {listing(paths)}")
    (prefix,) = prefixes
    inside = tensors.select({name.partition("\0")[2]: old for name, old in names.items()})
    roots = ("", *(root.removeprefix(prefix) for root in tensors.roots if root.startswith(prefix) and root != prefix))
    return dataclasses.replace(inside, roots=roots, notes=tensors.notes)


def _preprocessor(folder: Path) -> Json | None:
    return _json(folder, "preprocessor_config.json") or _json(folder, "processor_config.json")


def _json(folder: Path, name: str) -> Json | None:
    return read_json(folder / name) if (folder / name).exists() else None
