"""What a file is whose tensors no dialect explains, by a name that only its family has.

Asked only then: a family that gets a dialect of its own needs no change here.
"""

import re
from collections.abc import Iterable

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


def family_of(names: Iterable[str]) -> str | None:
    """What the tensors belong to, in words; None where nothing here knows them."""
    found = list(names)
    return next((words for regex, words in FAMILIES if any(re.search(regex, name) for name in found)), None)
