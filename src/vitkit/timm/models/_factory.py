"""`create_model`: builds timm's models by name, and loads weights from files, folders and the Hub."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.formats.timm import _config
from vitkit.checkpoints.formats.timm._architectures import Architecture
from vitkit.checkpoints.hub import download
from vitkit.checkpoints.locate import HUB_ID, locate
from vitkit.config import Json, JsonDict, nearest
from vitkit.timm.models._features import FeatureGetterNet
from vitkit.timm.models._registry import CFG_DEFAULTS, CFG_KEYS, PretrainedCfg, get_pretrained_cfg, resolve_name
from vitkit.timm.models._saved import complete_arguments, read_folder
from vitkit.timm.models._weights import HEADS, load_checkpoint, load_weights, open_checkpoint

Source = str | os.PathLike[str]
# A prefix of at least two characters, so that C:\ is none.
PREFIX = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-_]+")
SOURCES = ("hf-hub", "local-dir")


def parse_model_name(model_name: str) -> tuple[str | None, str]:
    """Returns the source prefix (`hf-hub`, `local-dir` or None) and the rest of a model name.

    Raises ValueError for an unknown prefix, and for a path or Hub id without a prefix.
    """
    source, colon, rest = model_name.partition(":")
    if not colon or not PREFIX.fullmatch(source):
        if any(sign in model_name for sign in "/\\:"):
            raise ValueError(
                f"Model name '{model_name}' has no source prefix but looks like a Hugging Face Hub repo id or a local "
                f"path. Use 'hf-hub:{model_name}' to load from the Hub or 'local-dir:{model_name}' to load from a "
                "local folder."
            )
        return None, model_name
    source = {"hf_hub": "hf-hub"}.get(source.lower(), source.lower())
    if source not in SOURCES:
        raise ValueError(
            f"Unknown model source '{source}' in model name '{model_name}', valid sources: {', '.join(SOURCES)}."
        )
    if not rest:
        raise ValueError(f"Model name '{model_name}' has no model id / path after the '{source}:' prefix.")
    return source, rest


def safe_model_name(model_name: str, remove_source: bool = True) -> str:
    """Replaces all characters of a model name except letters and digits with underscores."""
    name = parse_model_name(model_name)[1] if remove_source else model_name
    return "".join(sign if sign.isalnum() else "_" for sign in name).rstrip("_")


def create_model(
    model_name: str,
    pretrained: bool | Source = False,
    pretrained_cfg: str | Json | None = None,
    pretrained_cfg_overlay: Json | None = None,
    checkpoint_path: Source | None = None,
    cache_dir: Source | None = None,
    *,
    scriptable: bool | None = None,
    exportable: bool | None = None,
    no_jit: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Creates a model by its name in timm, optionally with a tag (`vit_base_patch16_224.augreg_in21k`).

    `hf-hub:OWNER/NAME` and `local-dir:FOLDER` take architecture, arguments and settings from a config.json of timm.
    `pretrained` is True for the published weights, or the path or Hub id of a checkpoint in any format that
    `vitkit.load` reads. `checkpoint_path` is loaded into the finished model. `kwargs` are arguments of the model class,
    and `features_only`, `out_indices`; None means the default. `scriptable`, `exportable` and `no_jit` have no effect:
    the models can be exported as they are.

    Raises RuntimeError for an unknown model and for missing weights, ValueError for an option that vitkit does not
    support, and TypeError for an unknown argument.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    source, rest = parse_model_name(model_name)
    name = rest
    if source:
        if pretrained_cfg:
            raise AssertionError("pretrained_cfg should not be set when sourcing model from Hugging Face Hub.")
        pretrained_cfg, name, arguments = read_folder(source, rest, cache_dir)
        kwargs = arguments | kwargs
    architecture, tag = resolve_name(name)
    model = build(
        architecture,
        pretrained=pretrained,
        pretrained_cfg=pretrained_cfg or tag or None,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **kwargs,
    )
    if checkpoint_path:
        load_checkpoint(model, checkpoint_path)
    return model


def resolve_cfg(architecture: Architecture, cfg: str | Json | None, overlay: Json | None) -> PretrainedCfg:
    """Returns the pretrained_cfg in `cfg` (a dict, a tag, or None for the default), updated with `overlay`."""
    if isinstance(cfg, Mapping):
        _check_keys(cfg)
        base: JsonDict = {**CFG_DEFAULTS, **cfg}
    else:
        name = f"{architecture.name}.{cfg}" if cfg else architecture.name
        base = dict(get_pretrained_cfg(name) or {})
    overlay = dict(overlay or {})
    _check_keys(overlay)
    if any(overlay.get(key) for key in ("file", "url", "hf_hub_id", "hf_hub_filename")):
        overlay.setdefault("custom_load", False)
    return PretrainedCfg({"architecture": architecture.name, **base, **overlay})


def _check_keys(cfg: Json) -> None:
    for key in cfg:
        if key not in CFG_KEYS:
            raise TypeError(f"the pretrained_cfg got an unexpected keyword argument '{key}'{nearest(key, CFG_KEYS)}")


def build(
    architecture: Architecture,
    *,
    pretrained: bool | Source = False,
    pretrained_cfg: str | Json | None = None,
    pretrained_cfg_overlay: Json | None = None,
    cache_dir: Source | None = None,
    pretrained_strict: bool = True,
    features_only: bool = False,
    **kwargs: Any,
) -> Any:
    """Creates the model of an architecture. See `create_model` for the arguments."""
    cfg = resolve_cfg(architecture, pretrained_cfg, pretrained_cfg_overlay).to_dict()
    heads = None if architecture.module == "resnetv2" else (architecture.arguments | kwargs).get("num_heads", 12)
    loaded = None if pretrained is False else _load(cfg, pretrained, cache_dir, heads)
    if isinstance(loaded, Checkpoint) and pretrained is not True:
        cfg |= _cfg_of(loaded)
    taken = ("out_indices", "output_fmt", "feature_cls") if features_only else ("out_indices",)
    taps = {name: kwargs.pop(name) for name in taken if name in kwargs}
    cls, arguments = complete_arguments(architecture, cfg, kwargs)
    model = cls(**arguments)
    model.pretrained_cfg = model.default_cfg = cfg
    if loaded is not None:
        _fill(model, loaded, cfg, architecture, strict=pretrained_strict, features=features_only)
    return _features(model, cfg, taps) if features_only else model


def _fill(
    model: Any,
    loaded: Checkpoint | Mapping[str, Any],
    cfg: JsonDict,
    architecture: Architecture,
    *,
    strict: bool,
    features: bool,
) -> None:
    """Loads weights into a new model. If the number of classes differs, the head keeps its random weights."""
    other = features or model.num_classes != cfg.get("num_classes", model.num_classes)
    if not isinstance(loaded, Checkpoint):
        state = {name: value for name, value in loaded.items() if not other or name.partition(".")[0] not in HEADS}
        model.load_state_dict(state, strict=strict and not other)
        return
    other = other or loaded.model.config.num_classes != model.num_classes
    # timm leaves out SigLIP's attention pooling if the model has another pooling.
    strict = strict and not ("siglip" in architecture.name and model.global_pool != "map")
    options = {"other_head": other, "bilinear": architecture.name.startswith("flexivit")}
    load_weights(model, loaded, loaded.origin.source, strict=strict, **options)


def _load(
    cfg: JsonDict, pretrained: bool | Source, cache_dir: Source | None, num_heads: int | None
) -> Checkpoint | Mapping[str, Any]:
    """Loads weights from a path or Hub id, or from the location in the pretrained_cfg."""
    source: Any = pretrained
    if pretrained is True:
        if cfg.get("state_dict"):
            return cfg["state_dict"]
        source = cfg.get("file") or cfg.get("hf_hub_id")
        if not source:
            name = cfg.get("architecture", "this model")
            url = f"; download {cfg['url']} and pass its path as pretrained=" if cfg.get("url") else ""
            raise RuntimeError(
                f"No pretrained weights exist for {name}{url or '. Use `pretrained=False` for random init.'}"
            )
    elif not isinstance(pretrained, str | os.PathLike):
        raise TypeError(f"pretrained is {pretrained!r}; expected True, False, or a path or Hub id of a checkpoint")
    owner, _, revision = os.fspath(source).partition("@")
    if cache_dir is not None and HUB_ID.fullmatch(owner) and not Path(source).expanduser().exists():
        source = download(owner, revision or None, cache_dir)[0]
    return open_checkpoint(source, num_heads)


def _cfg_of(loaded: Checkpoint) -> JsonDict:
    """Returns the entries of a pretrained_cfg that describe a checkpoint: classes, labels and preprocessing.

    A file without preprocessing settings, such as a single file of weights, has that of the architecture.
    """
    source, config = loaded.origin.source, loaded.model.config
    entries: JsonDict = {"num_classes": config.num_classes, "file": source}
    if loaded.labels:
        entries["label_names"] = loaded.labels
    files = locate(source, None)
    if files.config is not None or files.preprocessor is not None:
        found = _config.pretrained_cfg(loaded.processor, config)
        entries |= {key: tuple(found[key]) for key in ("input_size", "mean", "std")}
        entries |= {key: found[key] for key in ("interpolation", "crop_pct", "crop_mode")}
    return entries


def _features(model: Any, cfg: JsonDict, taps: JsonDict) -> FeatureGetterNet:
    if taps.pop("feature_cls", "getter") not in ("getter", FeatureGetterNet):
        raise ValueError("vitkit supports only feature_cls='getter', which returns the outputs of blocks as a list")
    taps.setdefault("out_indices", model.default_out_indices)
    wrapped = FeatureGetterNet(model, **taps)
    cfg = {key: value for key, value in cfg.items() if key not in ("num_classes", "classifier", "global_pool")}
    wrapped.pretrained_cfg = wrapped.default_cfg = cfg  # type: ignore[assignment]
    return wrapped


def model_entrypoint(model_name: str, module_filter: str | None = None) -> Callable[..., nn.Module]:
    """Returns the function that creates the model with a name. Raises RuntimeError for an unknown name."""
    architecture, _ = resolve_name(model_name)
    if module_filter and architecture.module != module_filter:
        raise RuntimeError(f"Model ({model_name} not found in module {module_filter}.")

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        """Creates the model."""
        return build(architecture, pretrained=pretrained, **kwargs)

    create.__name__ = architecture.name
    return create
