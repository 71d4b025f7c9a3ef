"""Names of timm's architectures and their published weights."""

import fnmatch
import re
import warnings
from collections.abc import Iterable
from typing import Any

from vitkit.checkpoints.formats.timm import _architectures
from vitkit.config import JsonDict, nearest

#: One filter, or several.
Filters = str | Iterable[str]

# Defaults of timm's PretrainedCfg; None is left out except for these keys.
CFG_DEFAULTS: JsonDict = {
    "custom_load": False,
    "input_size": (3, 224, 224),
    "fixed_input_size": False,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "num_classes": 1000,
    "pool_size": None,
    "first_conv": None,
    "classifier": None,
}
CFG_KEYS = (
    *CFG_DEFAULTS,
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "test_input_size"),
    *("min_input_size", "test_crop_pct", "label_offset", "label_names", "label_descriptions", "test_pool_size"),
    *("license", "description", "origin_url", "paper_name", "paper_ids", "notes"),
)


def split_model_name_tag(model_name: str, no_tag: str = "") -> tuple[str, str]:
    """Splits a name into architecture and tag: `vit_base_patch16_224` and `augreg_in21k`."""
    architecture, _, tag = model_name.partition(".")
    return architecture, tag or no_tag


def resolve_name(model_name: str) -> tuple[_architectures.Architecture, str]:
    """Returns the architecture and tag of a name. Raises RuntimeError for an unknown or unsupported name.

    A deprecated name is mapped to its current name with a warning, as in timm.
    """
    name, tag = split_model_name_tag(model_name)
    if (current := _architectures.deprecated().get(name)) is not None:
        warnings.warn(f"Mapping deprecated model name {name} to current {current}.", stacklevel=3)
        name, new_tag = split_model_name_tag(current)
        tag = tag or new_tag
    known = _architectures.architectures()
    if name not in known:
        raise RuntimeError(_unknown(name, known))
    return known[name], tag


def _unknown(name: str, known: Iterable[str]) -> str:
    shown = name[:80] if name.isprintable() else repr(name[:80])
    if name in _architectures.unsupported():
        part = _architectures.unsupported()[name]
        return f"Unknown model ({shown}): vitkit does not support this architecture of timm, which has {part}"
    suggestion = nearest(name, known)
    if "choose from" in suggestion:
        suggestion = "; vitkit.timm.list_models() lists the supported names"
    return f"Unknown model ({shown}){suggestion}"


def list_models(
    filter: Filters = "",  # noqa: A002 - timm's name
    module: Filters = "",
    pretrained: bool = False,
    exclude_filters: Filters = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """Returns the names of models that match any filter (with wildcards), in natural order.

    `module` selects by module of `timm.models`. `pretrained` selects names with published weights, with their tags
    unless `include_tags` is False.
    """
    modules = _as_list(module)
    tagged = pretrained if include_tags is None else include_tags
    names: list[str] = []
    for each in _architectures.architectures().values():
        if modules and each.module not in modules:
            continue
        names += [f"{each.name}.{tag}" if tag else each.name for tag in each.weights] if tagged else [each.name]
    included, excluded = _patterns(filter, tagged), _patterns(exclude_filters, tagged)
    if included:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in included)]
    names = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in excluded)]
    if pretrained:
        names = [name for name in names if is_model_pretrained(name)]
    return sorted(names, key=_natural)


def list_pretrained(filter: Filters = "", exclude_filters: Filters = "") -> list[str]:  # noqa: A002 - timm's name
    """Returns the names of models with published weights, with their tags."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """Returns the modules of `timm.models` that have supported models."""
    return sorted({each.module for each in _architectures.architectures().values()})


def is_model(model_name: str) -> bool:
    """Returns whether a name, with or without a tag, is a supported model."""
    return _architectures.architecture(model_name) is not None


def is_model_pretrained(model_name: str) -> bool:
    """Returns whether a name, with or without a tag, has published weights."""
    name, tag = split_model_name_tag(model_name)
    found = _architectures.architectures().get(name)
    if found is None or (tag and tag not in found.weights):
        return False
    cfg = found.weights[tag or next(iter(found.weights))]
    return any(cfg.get(key) for key in ("url", "file", "hf_hub_id"))


def is_model_in_modules(model_name: str, module_names: Filters) -> bool:
    """Returns whether a model belongs to one of the given modules of `timm.models`."""
    found = _architectures.architecture(model_name)
    return found is not None and found.module in _as_list(module_names)


def get_pretrained_cfg(model_name: str, allow_unregistered: bool = True) -> "PretrainedCfg | None":
    """Returns the settings of published weights. Without a tag, returns those of the default weights.

    Raises RuntimeError for an unknown tag, and for an unknown name unless `allow_unregistered`.
    """
    name, tag = split_model_name_tag(model_name)
    found = _architectures.architectures().get(name)
    if found is None:
        if allow_unregistered:
            return None
        raise RuntimeError(f"Model architecture ({name}) has no pretrained cfg registered.")
    tag = tag or next(iter(found.weights))
    if tag not in found.weights:
        raise RuntimeError(f"Invalid pretrained tag ({tag}) for {name}{nearest(tag, found.weights)}")
    cfg = {**CFG_DEFAULTS, **found.weights[tag]}
    if cfg.get("hf_hub_id") == "timm/":
        cfg["hf_hub_id"] = f"timm/{name}.{tag}" if tag else f"timm/{name}"
    return PretrainedCfg({**cfg, "architecture": name, "tag": tag or None})


def get_pretrained_cfg_value(model_name: str, cfg_key: str) -> Any:
    """Returns one entry of the settings of published weights, or None if there is no such entry."""
    cfg = get_pretrained_cfg(model_name, allow_unregistered=False)
    return None if cfg is None else cfg.get(cfg_key)


class PretrainedCfg(dict[str, Any]):
    """Settings of published weights: a dict with timm's keys, which are also attributes."""

    def __init__(self, values: JsonDict):
        super().__init__({key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in CFG_KEYS:
            return None
        raise AttributeError(f"the pretrained_cfg has no entry '{name}'; its entries are {', '.join(self)}")

    @property
    def has_weights(self) -> bool:
        """Whether the weights are published."""
        return any(self.get(key) for key in ("url", "file", "hf_hub_id"))

    def to_dict(self, remove_source: bool = False, remove_null: bool = True) -> JsonDict:
        """Returns the entries as a dict, optionally without the location of the weights and without None values."""
        source = ("url", "file", "hf_hub_id", "hf_hub_filename", "source") if remove_source else ()
        kept = {key: value for key, value in self.items() if key not in source}
        always = ("pool_size", "first_conv", "classifier")
        return {key: value for key, value in kept.items() if not remove_null or value is not None or key in always}


def _as_list(value: Filters) -> list[str]:
    if not value:
        return []
    return [value] if isinstance(value, str) else list(value)


def _patterns(filters: Filters, tagged: bool) -> list[str]:
    """Returns the filters as patterns. If names have tags, a filter without a tag matches every tag."""
    given = _as_list(filters)
    if not tagged:
        return given
    return [pattern for each in given for pattern in ([each] if "." in each else [f"{each}.*", each])]


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
