"""What the names of timm's architectures tell that the tensors do not: heads, depth, and what is no ViT of ours."""

import re

from vitkit.checkpoints.errors import CheckpointError

VITS = re.compile(r"test_vit\d*(\.|$)|(vit|deit3?|beit3?|beitv2|eva|flexivit|aimv2)_")
RESNETS = re.compile(r"resnetv2_")
# (name, depth, number of heads), as timm's entry points have them; None where names alike differ. First match wins.
SIZES: tuple[tuple[str, int | None, int | None], ...] = (
    (r"test_vit2?(\.|$)", None, 2),
    (r"test_vit[34](\.|$)", None, 3),
    (r"vit_base_patch16_gap_224", 12, 16),
    (r"vit_small_patch16_36x1_", 36, 6),
    (r"\w+_18x2_", None, None),
    (r"vit_base_patch\d+_plus_", 12, 14),
    (r"vit_giant_patch\d+_(reg\d+_)?(dinov2|tipsv2|radio)", 40, 24),
    (r"vit_\w+_patch\d+_(rope|sapiens2|lingbot)", None, None),
    (r"vit_giantopt_patch", 40, 16),
    (r"vit_so400m_patch", 27, 16),
    (r"(vit|deit)_tiny_(distilled_)?patch", 12, 3),
    (r"(vit|deit3?)_small_(distilled_)?patch", 12, 6),
    (r"(vit|deit3)_medium_patch", 12, 8),
    (r"(vit|deit3?|beit3?|beitv2)_base_(distilled_)?patch", 12, 12),
    (r"(vit|deit3|beit3?|beitv2|eva)_large_patch", 24, 16),
    (r"(vit|deit3)_huge_patch", 32, None),
    (r"(vit|beit3)_giant_patch", 40, 16),
    (r"vit_gigantic_patch", 48, 16),
)


def check(name: str, known: re.Pattern[str]) -> None:
    """CheckpointError for an architecture that is not of the `known`, or whose tensors mean something else by name."""
    if not name:
        return
    shown = name[:60] if name.isprintable() else repr(name[:60])
    if "quickgelu" in name:
        raise CheckpointError(f"{shown} is a CLIP model, which is not a plain ViT")
    if "_rpn_" in name:
        raise CheckpointError(f"{shown} has its norms behind attention and MLP (post-norm), which vitkit does not read")
    if not known.match(name):
        what = "ViT, DeiT or BEiT" if known is VITS else "BiT ResNet"
        raise CheckpointError(f"config.json says architecture {name[:60]!r}, but the tensors are those of a {what}")


def size(name: str) -> tuple[int | None, int | None]:
    """Depth and number of heads of an architecture; None for what its name does not tell."""
    return next(((depth, heads) for pattern, depth, heads in SIZES if re.match(pattern, name)), (None, None))
