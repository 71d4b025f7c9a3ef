"""Which format a file has, from the names of its tensors: the one that explains the most of them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.formats import Format, all_formats, named, targets
from vitkit.checkpoints.tensors import Tensors

# What training scripts wrap a state dict in, the wanted one first where a file has several copies of the weights.
WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "ema", "base_encoder", "model", "state_dict", "params", "img"),
    *("momentum_encoder", "student"),
)
PLAIN = ("module", "_orig_mod", "backbone", "encoder", "opt/target", "target", "net")
# Parts of a training state beside the weights.
BESIDE = re.compile(
    rf"({'|'.join(WRAPPERS)}|opt|optimizer|optim|lr_scheduler|scheduler|scaler|loss_scaler|fp16_scaler|amp|dino_loss"
    r"|epoch|step|args|txt|t|b|rng|extra|params/(txt|t|b))([./].*)?"
)
PREFIX = rf"(?P<wrapper>(?:(?:{'|'.join((*WRAPPERS, *PLAIN))})[./])*)"
# What a file is whose tensors no dialect explains, by a name that only its family has. Asked only then.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"conv_root[/.]|patch_embed\.backbone\.", "a hybrid of a ResNet and a ViT"),
    (r"dist_token|distillation_token|head_dist\.", "a distilled DeiT, with a distillation token"),
    (r"relative_position_(bias|index)|\.q_bias|rel_pos", "a BEiT or another ViT with relative positions"),
    (r"weights_in\.|mlp\.gate_proj|\.w1\.|fc1_g\.", "a ViT with a gated MLP of another layout (EVA)"),
    (r"rope_embed|rope_embeddings|\.rope\.", "a ViT with rotary positions (DINOv3, EVA)"),
    (r"MixerBlock|mlp_tokens|token_mixing", "an MLP-Mixer"),
    (r"norm_pre\.|pre_layrnorm|ln_pre|^visual\.|text_model\.", "a CLIP model, with a norm before its blocks"),
    (r"^(vision_model|logit_scale|logit_bias)", "a two-tower model of images and texts in transformers' layout"),
    (r"^embeds\.|NaFlex", "a NaFlex ViT, with patches of any number"),
    (r"unit\d+[/.]|block\d+/unit", "a BiT ResNet"),
    (r"(^|\.)layer\d\.\d+\.conv\d", "a ResNet"),
    (r"layers\.\d+\.blocks\.\d+\.attn", "a Swin Transformer"),
    (r"local_cls_norm|cls_pt_layers|stages\.\d+", "a convolutional or hierarchical network"),
    (r"\.attn\.(q|k|v)\.weight|\.mlp\.norm\.", "a ViT with split projections or scaled norms"),
)


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A format and the tensors under its names; `strange` are those it does not explain."""

    format: Format
    tensors: Tensors
    wrapper: str
    strange: list[str]
    notes: tuple[str, ...]


def recognise(tensors: Tensors, config: Mapping[str, Any] | None, wanted: str | None) -> Recognised:
    """The format of the tensors; `wanted` narrows it to those of that name.

    Raises CheckpointError that says what the file is, or shows its names, where no format explains it.
    """
    formats = all_formats() if wanted is None else tuple(named(wanted))
    found = [each for each in (_try(layout, tensors, config) for layout in formats) if each is not None]
    if not found:
        raise CheckpointError(_unknown(tensors, config, wanted))
    best = min(found, key=lambda each: len(each.strange))
    if best.strange and (family := family_of(best.strange)):
        raise CheckpointError(f"this is {family}, in a layout that vitkit does not read ({listing(best.strange, 3)})")
    return best


def _try(layout: Format, tensors: Tensors, config: Mapping[str, Any] | None) -> Recognised | None:
    if not layout.accepts(config):
        return None
    unwrapped = _unwrap(layout, tensors)
    if unwrapped is None:
        return None
    wrapper, inside, notes = unwrapped
    arranged = layout.arrange(inside.renamed(lambda name: _alias(layout, name)))
    if not all(any(re.fullmatch(anchor, name) for name in inside.infos) for anchor in layout.anchors[1:]):
        return None
    unknown = [name for name in arranged.infos if not layout.table.knows(name)]
    ignored = {name: why for name in unknown if (why := _ignored(layout, name))}
    notes += tuple(f"left out: {why}" for why in dict.fromkeys(ignored.values()))
    return Recognised(
        format=layout,
        tensors=arranged.without(ignored),
        wrapper=wrapper,
        strange=[name for name in unknown if name not in ignored],
        notes=notes,
    )


def _unwrap(layout: Format, tensors: Tensors) -> tuple[str, Tensors, tuple[str, ...]] | None:
    """The tensors under the wrapper that the first anchor is found behind; None where it is nowhere."""
    if not layout.anchors:
        return "", tensors, ()
    anchor = re.compile(PREFIX + layout.anchors[0])
    wrappers = [match["wrapper"] for name in tensors.infos if (match := anchor.fullmatch(name))]
    if not wrappers:
        return None
    wrapper = min(wrappers, key=_preference)
    inside: dict[str, str] = {}
    beside: list[str] = []
    for name in tensors.infos:
        if name.startswith(wrapper):
            inside[name.removeprefix(wrapper)] = name
        elif BESIDE.fullmatch(name):
            beside.append(re.split(r"[./]", name)[0])
        else:
            inside[name] = name
    parts = tuple(f"left out: {part}, beside the weights" for part in dict.fromkeys(beside))
    return wrapper, tensors.under(inside), ((f"weights under '{wrapper}'",) if wrapper else ()) + parts


def _preference(wrapper: str) -> tuple[int, int]:
    words = re.split(r"[./]", wrapper)
    ranks = [rank for rank, word in enumerate(WRAPPERS) if word in words]
    return (min(ranks) if ranks else -1, len(words))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _alias(layout: Format, name: str) -> str:
    for pattern, replacement in layout.aliases:
        name = _compiled(pattern).sub(replacement, name)
    return name


def _ignored(layout: Format, name: str) -> str | None:
    return next((why for pattern, why in layout.ignored if _compiled(pattern).fullmatch(name)), None)


def _unknown(tensors: Tensors, config: Mapping[str, Any] | None, wanted: str | None) -> str:
    names = list(tensors.infos)
    if not names:
        return "it holds no tensors"
    if family := family_of(names):
        return f"this is {family}, in a layout that vitkit does not read"
    if wanted is None and config is not None and isinstance(config.get("model_type"), str):
        return _not_of_the_type(config["model_type"], names, config)
    if wanted is not None:
        return f"it is not of the format '{wanted}': its tensors are {listing(names, 5)}"
    return f"its tensors are those of no format of {', '.join(targets())}: {listing(names, 5)}"


def _not_of_the_type(kind: str, names: list[str], config: Mapping[str, Any]) -> str:
    """Either no layout takes this model_type, or one does and the tensors are not under its names."""
    stated = f"config.json says model_type {kind[:40]!r}"
    # npz formats take any config.json: those that take one without model_type too do not go by it.
    if not any(each.accepts(config) and not each.accepts({}) for each in all_formats()):
        return f"{stated}, which vitkit does not read"
    return f"{stated}, but the tensors do not have the names of that layout: {listing(names, 5)}"


def family_of(names: Iterable[str]) -> str | None:
    """What the tensors belong to, in words; None where nothing here knows them."""
    found = list(names)
    return next((words for regex, words in FAMILIES if any(re.search(regex, name) for name in found)), None)
