"""Detects the format of a weights file, which is the format with the fewest unknown tensor names."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.formats import Format, all_formats, builtin_formats, formats_for, list_formats
from vitkit.checkpoints.json_files import Json
from vitkit.checkpoints.table import COUNTER, SAME, Rule, Table
from vitkit.checkpoints.tensors import Tensors
from vitkit.checkpoints.unwrap import Names, Unwrapped, training_part

# Patterns of names that identify unsupported families, for the error message only.
UNSUPPORTED_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"conv_root[/.]|patch_embed\.backbone\.", "a hybrid of a ResNet and a ViT"),
    (r"dist_token|distillation_token|head_dist\.", "a distilled DeiT, with a distillation token"),
    (r"relative_position_(bias|index)|\.q_bias|rel_pos", "a BEiT or another ViT with relative positions"),
    (r"weights_in\.|mlp\.gate_proj|\.w1\.|fc1_g\.", "a ViT with a gated MLP (EVA)"),
    (r"rope_embed|rope_embeddings|\.rope\.", "a ViT with rotary positions (DINOv3, EVA)"),
    (r"MixerBlock|mlp_tokens|token_mixing", "an MLP-Mixer"),
    (r"norm_pre\.|pre_layrnorm|ln_pre|^visual\.|text_model\.", "a CLIP model, or its text tower"),
    (r"^(vision_model|logit_scale|logit_bias)", "a two-tower model of images and texts in transformers' layout"),
    (r"^embeds\.|NaFlex", "a NaFlex ViT, with a variable number of patches"),
    (r"unit\d+[/.]|block\d+/unit", "a BiT ResNet"),
    (r"(^|\.)layer\d\.\d+\.conv\d", "a ResNet"),
    (r"layers\.\d+\.blocks\.\d+\.attn", "a Swin Transformer"),
    (r"local_cls_norm|cls_pt_layers|stages\.\d+", "a convolutional or hierarchical network"),
    (r"\.attn\.(q|k|v)\.weight|\.mlp\.norm\.", "a ViT with split projections or scaled norms"),
)

# The pooler of transformers' ViTModel, a tanh layer, is the pre-logits layer of a head that reads it.
POOLED = "huggingface"
POOLER, HEAD = "pooler.dense.weight", "classifier.weight"
PRE_LOGITS = Rule("pre_logits.fc.{leaf}", ("pooler.dense.{leaf}",))


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A detected format, with the tensors of the file renamed to the names of that format.

    `unknown` lists names that the format does not have, and `outside` tensors next to the model that could change its
    output.
    """

    format: Format
    tensors: Tensors
    wrapper: str
    unknown: list[str]
    outside: tuple[str, ...] = ()
    notes: tuple[str, ...]


def detect_format(
    tensors: Tensors, config: Json | None, format_name: str | None, pre_logits: int | None = None
) -> Detection:
    """Returns the checkpoint format that leaves the fewest tensor names of the file unknown.

    `format_name` restricts the choice to formats with that target. `pre_logits` says what a separate head reads if the
    model has transformers' pooler: 0 is the class token, the width of the pooler its output. Raises CheckpointError if
    no format matches; the message names the model family or some of the tensors.
    """
    formats = builtin_formats() if format_name is None else tuple(formats_for(format_name))
    names = Names(tensors)
    found = [each for each in (_try(layout, names, config, pre_logits) for layout in formats) if each is not None]
    if format_name is None and not any(not each.unknown and not each.outside for each in found):
        # Formats of plug-ins are tried last, so that plug-ins are not loaded for files that built-in formats read.
        others = (_try(each, names, config, pre_logits) for each in all_formats() if each not in formats)
        found += [each for each in others if each is not None]
    if not found:
        raise CheckpointError(_unknown_error(tensors, config, format_name))
    if all(0 in info.shape for info in tensors.infos.values()):
        raise CheckpointError(
            "the tensors are empty, because the weights are sharded over several processes; gather them first "
            "(DeepSpeed: zero_to_fp32.py, or stage3_gather_16bit_weights_on_model_save)"
        )
    # timm and torchvision give a ResNet the same names; without a config.json it is a file, which torchvision writes.
    single = lambda each: config is None and each.format.suffix != ""  # noqa: E731
    best = min(found, key=lambda each: (len(each.unknown) + len(each.outside), not single(each)))
    if any(".lora_" in name for name in best.unknown):
        raise CheckpointError(
            "the file contains LoRA adapters that are not merged; merge them with peft "
            "(model.merge_and_unload()) and save the state_dict"
        )
    if best.unknown and (family := family_of([*best.unknown, *best.outside])):
        raise CheckpointError(
            f"the model is {family}, in a layout that vitkit does not support "
            f"({listing([*best.unknown, *best.outside], 3)})"
        )
    if best.outside:
        raise CheckpointError(_outside_error(best, tensors))
    return best


def canonical(tensors: Tensors, config: Json | None) -> tuple[Tensors, Callable[[str], str]]:
    """Returns the model's tensors with the names of their format, and the function that maps file names to these names.

    Unlike `detect_format` it changes no values and keeps tensors that the format ignores.
    """
    detected = detect_format(tensors, config, None)
    layout = detected.format
    found = Names(tensors).unwrap(layout.anchors[0], layout.ignored) if layout.anchors else _as_stored(tensors)
    if found is None or found.outside:
        raise CheckpointError("the tensor names are not those of a complete model; save the full state_dict")

    def rename(name: str) -> str:
        return _alias(layout, name.removeprefix(detected.wrapper))

    inside = found.tensors.renamed(lambda name: _alias(layout, name))
    return _with_head(layout, tensors, inside, found, None)[0], rename


def _outside_error(detection: Detection, tensors: Tensors) -> str:
    tree = detection.wrapper.rstrip("./")
    width = next((info.shape[0] for name, info in tensors.infos.items() if name.endswith(POOLER)), 0)
    if width and detection.format.name == POOLED:
        return (
            f"the file has a pooler, but does not say whether the head ({listing(list(detection.outside), 4)}) reads "
            f"it: set pre_logits={width} if it reads pooler_output, or pre_logits=0 if it reads the class token "
            "(--set pre_logits=0)"
        )
    return (
        f"the file has tensors outside '{detection.wrapper}' that could change the output: "
        f"{listing(list(detection.outside), 4)}; to load only the weights in '{tree}', pass FILE:{tree}"
    )


def _try(layout: Format, names: Names, config: Json | None, pre_logits: int | None) -> Detection | None:
    if not layout.accepts(config):
        return None
    found = names.unwrap(layout.anchors[0], layout.ignored) if layout.anchors else _as_stored(names.tensors)
    if found is None:
        return None
    inside = _with_classifier(layout, found.tensors).renamed(lambda name: _alias(layout, name))
    if not all(any(re.fullmatch(anchor, name) for name in inside.infos) for anchor in layout.anchors[1:]):
        return None
    inside, outside = _with_head(layout, names.tensors, inside, found, pre_logits)
    if layout.name == POOLED and {POOLER, HEAD} <= inside.infos.keys():
        if pre_logits is None and not _declares_head(config):
            outside = (HEAD, *outside)
        elif pre_logits:
            layout = replace(layout, table=Table((*layout.table.rules, PRE_LOGITS)))
    arranged = layout.arrange(inside)
    unknown = [name for name in arranged.infos if not layout.table.matches(name)]
    applicable = names.applicable(layout.ignored)
    ignored = {
        name: why for name in unknown if (why := _ignored(applicable, name) or training_part(name) or _counter(name))
    }
    why_ignored = tuple(f"ignored: {why}" for why in dict.fromkeys(ignored.values()))
    return Detection(
        format=layout,
        tensors=arranged.without(ignored),
        wrapper=found.wrapper,
        unknown=[name for name in unknown if name not in ignored],
        outside=outside,
        notes=names.tensors.notes + found.notes + why_ignored,
    )


def _with_classifier(layout: Format, tensors: Tensors) -> Tensors:
    """Renames the only linear layer next to transformers' `vit.` to `classifier` (modules `vit` and `fc`)."""
    if layout.name != POOLED or HEAD in tensors.infos or not any(name.startswith("vit.") for name in tensors.infos):
        return tensors
    others = [name for name in tensors.infos if not name.startswith("vit.") and not _ignored(layout.ignored, name)]
    stem = others[0].rpartition(".")[0] if others else ""
    if not stem or sorted(others) != [f"{stem}.bias", f"{stem}.weight"]:
        return tensors
    weight, bias = (tensors.infos[f"{stem}.{leaf}"].shape for leaf in ("weight", "bias"))
    if len(weight) != 2 or bias != weight[:1]:
        return tensors
    return tensors.renamed(lambda name: f"classifier.{name.rpartition('.')[2]}" if name in others else name)


def _declares_head(config: Json | None) -> bool:
    """Returns whether config.json names transformers' class for classification, whose head reads the class token."""
    names = (config or {}).get("architectures")
    return isinstance(names, list) and any("ForImageClassification" in str(name) for name in names)


def _as_stored(tensors: Tensors) -> Unwrapped:
    return Unwrapped(wrapper="", tensors=tensors)


def _with_head(
    layout: Format, tensors: Tensors, inside: Tensors, found: Unwrapped, pre_logits: int | None
) -> tuple[Tensors, tuple[str, ...]]:
    """Adds a linear layer that is stored outside the model to the model's tensors, as the head.
    Returns the tensors, and the names of the tensors outside the model that could not be added.
    """
    if not found.head:
        return inside, found.outside
    names: dict[str, str] = {}
    for leaf, original in found.head.items():
        step = layout.table.step(f"head.{leaf}")
        own = step is not None and any(name in inside.infos for name in step.theirs)
        # A pooler may or may not be between the backbone and its head: the file does not say.
        said = layout.name == POOLED and pre_logits is not None
        pooled = not said and any(name.startswith("pooler.") for name in inside.infos)
        if step is None or step.transform is not SAME or own or pooled:
            return inside, () if found.optional and own else tuple(found.head.values())
        names[step.theirs[0]] = original
    infos = {**inside.infos, **{name: tensors.infos[original] for name, original in names.items()}}
    read = lambda name: tensors.read(names[name]) if name in names else inside.read(name)  # noqa: E731
    return Tensors(infos, read), ()


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _alias(layout: Format, name: str) -> str:
    for pattern, replacement in layout.aliases:
        name = _compiled(pattern).sub(replacement, name)
    return name


def _ignored(patterns: Iterable[tuple[str, ...]], name: str) -> str | None:
    return next((why for pattern, why, *_ in patterns if _compiled(pattern).fullmatch(name)), None)


def _counter(name: str) -> str | None:
    return f"{name} (a number, not model weights)" if COUNTER.fullmatch(name) else None


def _unknown_error(tensors: Tensors, config: Json | None, format_name: str | None) -> str:
    names = list(tensors.infos)
    if not names:
        return "the file has no tensors; pass a weights file"
    if any(re.search(r"(^|\.)_?flat_param", name) for name in names):
        return (
            "the weights are flattened and sharded by FSDP; save a full state dict "
            "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True)"
        )
    if family := family_of(names):
        return f"the model is {family}, in a layout that vitkit does not support"
    if format_name is None and config is not None and isinstance(config.get("model_type"), str):
        return _model_type_error(config["model_type"], names, config)
    if format_name is not None:
        return f"the file is not in the format '{format_name}'; its tensors are {listing(names, 5)}"
    return f"the tensor names match none of the formats {', '.join(list_formats())}: {listing(names, 5)}"


def _model_type_error(kind: str, names: list[str], config: Json) -> str:
    """Returns the error for a model_type that is unsupported or does not match the tensor names."""
    prefix = f"config.json: model_type is {kind[:40]!r}"
    # Formats that also accept a config.json without model_type (such as npz) do not check it.
    if not any(each.accepts(config) and not each.accepts({}) for each in all_formats()):
        return f"{prefix}, which vitkit does not support"
    return f"{prefix}, but the tensor names do not match that layout: {listing(names, 5)}"


def family_of(names: Iterable[str]) -> str | None:
    """Returns a description of the unsupported model family with these tensor names, or None if it is unknown."""
    names = list(names)
    return next((text for regex, text in UNSUPPORTED_FAMILIES if any(re.search(regex, name) for name in names)), None)
