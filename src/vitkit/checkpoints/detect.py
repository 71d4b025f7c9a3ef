"""Detects the format of a file: the one with the fewest unknown tensor names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.formats import Format, all_formats, formats_for, list_formats
from vitkit.checkpoints.json_files import Json
from vitkit.checkpoints.tensors import Tensors

# Keys under which training scripts save a state dict, in order of preference if a file has several copies.
WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "ema", "base_encoder", "model", "state_dict", "params", "img"),
    *("momentum_encoder", "student"),
)
PLAIN = ("module", "_orig_mod", "backbone", "encoder", "opt/target", "target", "net")
# Parts of a training checkpoint that are not model weights.
NOT_WEIGHTS = re.compile(
    rf"({'|'.join(WRAPPERS)}|opt|optimizer|optim|lr_scheduler|scheduler|scaler|loss_scaler|fp16_scaler|amp|dino_loss"
    r"|epoch|step|args|txt|t|b|rng|extra|params/(txt|t|b))([./].*)?"
)
PREFIX = rf"(?P<wrapper>(?:(?:{'|'.join((*WRAPPERS, *PLAIN))})[./])*)"
# Patterns of names that identify unsupported families, for the error message only.
UNSUPPORTED_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"conv_root[/.]|patch_embed\.backbone\.", "a hybrid of a ResNet and a ViT"),
    (r"dist_token|distillation_token|head_dist\.", "a distilled DeiT, with a distillation token"),
    (r"relative_position_(bias|index)|\.q_bias|rel_pos", "a BEiT or another ViT with relative positions"),
    (r"weights_in\.|mlp\.gate_proj|\.w1\.|fc1_g\.", "a ViT with a gated MLP of another layout (EVA)"),
    (r"rope_embed|rope_embeddings|\.rope\.", "a ViT with rotary positions (DINOv3, EVA)"),
    (r"MixerBlock|mlp_tokens|token_mixing", "an MLP-Mixer"),
    (r"norm_pre\.|pre_layrnorm|ln_pre|^visual\.|text_model\.", "a CLIP model, with a norm before its blocks"),
    (r"^(vision_model|logit_scale|logit_bias)", "a two-tower model of images and texts in transformers' layout"),
    (r"^embeds\.|NaFlex", "a NaFlex ViT, with a variable number of patches"),
    (r"unit\d+[/.]|block\d+/unit", "a BiT ResNet"),
    (r"(^|\.)layer\d\.\d+\.conv\d", "a ResNet"),
    (r"layers\.\d+\.blocks\.\d+\.attn", "a Swin Transformer"),
    (r"local_cls_norm|cls_pt_layers|stages\.\d+", "a convolutional or hierarchical network"),
    (r"\.attn\.(q|k|v)\.weight|\.mlp\.norm\.", "a ViT with split projections or scaled norms"),
)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A format and the tensors under its names; `unknown` lists names that it does not have."""

    format: Format
    tensors: Tensors
    wrapper: str
    unknown: list[str]
    notes: tuple[str, ...]


def detect_format(tensors: Tensors, config: Json | None, format_name: str | None) -> Detection:
    """Returns the format of the tensors.

    `format_name` restricts the choice to formats with that target. Raises CheckpointError if no format matches; the
    message names the model family or some of the tensors.
    """
    formats = all_formats() if format_name is None else tuple(formats_for(format_name))
    found = [each for each in (_try(layout, tensors, config) for layout in formats) if each is not None]
    if not found:
        raise CheckpointError(_unknown_error(tensors, config, format_name))
    best = min(found, key=lambda each: len(each.unknown))
    if best.unknown and (family := family_of(best.unknown)):
        raise CheckpointError(
            f"this is {family}, in a layout that vitkit does not support ({listing(best.unknown, 3)})"
        )
    return best


def _try(layout: Format, tensors: Tensors, config: Json | None) -> Detection | None:
    if not layout.accepts(config):
        return None
    unwrapped = _unwrap(layout, tensors)
    if unwrapped is None:
        return None
    wrapper, inside, notes = unwrapped
    arranged = layout.arrange(inside.renamed(lambda name: _alias(layout, name)))
    if not all(any(re.fullmatch(anchor, name) for name in inside.infos) for anchor in layout.anchors[1:]):
        return None
    unknown = [name for name in arranged.infos if not layout.table.matches(name)]
    ignored = {name: why for name in unknown if (why := _ignored(layout, name))}
    notes += tuple(f"ignored: {why}" for why in dict.fromkeys(ignored.values()))
    return Detection(
        format=layout,
        tensors=arranged.without(ignored),
        wrapper=wrapper,
        unknown=[name for name in unknown if name not in ignored],
        notes=notes,
    )


def _unwrap(layout: Format, tensors: Tensors) -> tuple[str, Tensors, tuple[str, ...]] | None:
    """Removes the wrapper in front of the first anchor; None if no tensor matches the anchor."""
    if not layout.anchors:
        return "", tensors, ()
    anchor = re.compile(PREFIX + layout.anchors[0])
    wrappers = [match["wrapper"] for name in tensors.infos if (match := anchor.fullmatch(name))]
    if not wrappers:
        return None
    wrapper = min(wrappers, key=_preference)
    inside: dict[str, str] = {}
    others: list[str] = []
    for name in tensors.infos:
        if name.startswith(wrapper):
            inside[name.removeprefix(wrapper)] = name
        elif NOT_WEIGHTS.fullmatch(name):
            others.append(re.split(r"[./]", name)[0])
        else:
            inside[name] = name
    parts = tuple(f"ignored: {part} (not model weights)" for part in dict.fromkeys(others))
    return wrapper, tensors.select(inside), ((f"weights under '{wrapper}'",) if wrapper else ()) + parts


def _preference(wrapper: str) -> tuple[int, int]:
    parts = re.split(r"[./]", wrapper)
    ranks = [rank for rank, name in enumerate(WRAPPERS) if name in parts]
    return (min(ranks) if ranks else -1, len(parts))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _alias(layout: Format, name: str) -> str:
    for pattern, replacement in layout.aliases:
        name = _compiled(pattern).sub(replacement, name)
    return name


def _ignored(layout: Format, name: str) -> str | None:
    return next((why for pattern, why in layout.ignored if _compiled(pattern).fullmatch(name)), None)


def _unknown_error(tensors: Tensors, config: Json | None, format_name: str | None) -> str:
    names = list(tensors.infos)
    if not names:
        return "the file has no tensors"
    if family := family_of(names):
        return f"this is {family}, in a layout that vitkit does not support"
    if format_name is None and config is not None and isinstance(config.get("model_type"), str):
        return _model_type_error(config["model_type"], names, config)
    if format_name is not None:
        return f"the file is not in the format '{format_name}'; its tensors are {listing(names, 5)}"
    return f"the tensors match no format of {', '.join(list_formats())}: {listing(names, 5)}"


def _model_type_error(kind: str, names: list[str], config: Json) -> str:
    """Returns the error for an unsupported model_type or names that do not match it."""
    prefix = f"config.json: model_type is {kind[:40]!r}"
    # Formats that also accept a config.json without model_type (such as npz) do not check it.
    if not any(each.accepts(config) and not each.accepts({}) for each in all_formats()):
        return f"{prefix}, which vitkit does not support"
    return f"{prefix}, but the tensor names do not match that layout: {listing(names, 5)}"


def family_of(names: Iterable[str]) -> str | None:
    """Returns a description of the unsupported family of the tensors; None if unknown."""
    names = list(names)
    return next((text for regex, text in UNSUPPORTED_FAMILIES if any(re.search(regex, name) for name in names)), None)
