"""Converts architecture names of timm, transformers, torchvision and papers, and suggests similar names.

`vit_base_patch16_384`, `google/vit-base-patch16-384`, `vit_b_16` and `ViT-B/16` mean the architecture `vit-b/16`, two
of them with images of 384 x 384.
"""

import difflib
import re
from collections.abc import Collection

# Maps model size names of timm and transformers to those of vitkit.
SIZES = {
    "micro": "mu", "tiny": "ti", "small": "s", "medium": "m", "base": "b", "large": "l", "huge": "h", "giant": "g",
    "giantopt": "g-opt", "gigantic": "G", "so400m": "so400m",
}  # fmt: skip
_SIZE = "|".join(sorted(SIZES, key=len, reverse=True))
_SHORT = "mu|ti|t|s|m|b|l|so400m|h|g-opt|g|e"
# The image size and the suffixes for training data in model names, which do not change the architecture.
_TAIL = r"(?:-(?P<image>\d{3}))?(?:-(?:in1k|in21k|in22k|pt22k|ft22k|ft1k|ft22kto1k|lvd142m|imagenet1k-1-layer))*"
# Patterns of full names, in lower case with hyphens, and the architecture names that they stand for.
PATTERNS = (
    (
        rf"(?P<family>vit|deit|deit3|beit|beitv2|dino)-(?P<size>{_SIZE})-patch(?P<patch>\d+){_TAIL}",
        "{family}-{size}/{patch}",
    ),
    (rf"deit-(?P<size>{_SIZE})-distilled-patch(?P<patch>\d+){_TAIL}", "deit-{size}/{patch}-distilled"),
    (rf"dinov2-(?P<size>{_SIZE}){_TAIL}", "dinov2-{size}/14"),
    (rf"dinov2-with-registers-(?P<size>{_SIZE}){_TAIL}", "dinov2-{size}/14-reg"),
    (rf"vit-(?P<size>{_SIZE})-patch14-dinov2", "dinov2-{size}/14"),
    (rf"vit-(?P<size>{_SIZE})-patch14-reg4-dinov2", "dinov2-{size}/14-reg"),
    (r"dinov2-vit(?P<size>[sblg])14", "dinov2-{size}/14"),
    (r"dinov2-vit(?P<size>[sblg])14-reg", "dinov2-{size}/14-reg"),
    (rf"vit-(?P<size>{_SIZE}|7b)-patch16-dinov3", "dinov3-{size}/16"),
    (rf"vit-(?P<size>{_SIZE})-plus-patch16-dinov3", "dinov3-{size}+/16"),
    (r"dinov3-vit(?P<size>7b|[sblh])16(?:-pretrain-lvd1689m|-pretrain-sat493m)?", "dinov3-{size}/16"),
    (r"dinov3-vit(?P<size>[sblh])16plus(?:-pretrain-lvd1689m)?", "dinov3-{size}+/16"),
    (r"dino-vit(?P<size>[sb])(?P<patch>\d+)", "dino-{size}/{patch}"),
    (r"vit-mae-(?P<size>base|large)", "mae-{size}/16"),
    (r"vit-mae-(?P<size>huge)", "mae-{size}/14"),
    (rf"vit-msn-(?P<size>{_SIZE})", "vit-{size}/16"),
    (rf"vit-msn-(?P<size>{_SIZE})-(?P<patch>\d+)", "vit-{size}/{patch}"),
    (r"vit-(?P<size>tiny)-r-s16-p8(?:-(?P<image>\d+))?", "r+vit-{size}/16"),
    (rf"vit-(?P<size>{_SIZE})-r(?P<depth>26|50)-s(?P<patch>\d+)(?:-(?P<image>\d+))?", "r{depth}+vit-{size}/{patch}"),
    (r"vit-hybrid-(?P<size>base)-bit-(?P<image>384)", "r50+vit-{size}/16"),
    (r"resnetv2-(?P<depth>\d+)x(?P<patch>\d+)-bit", "bit-r{depth}x{patch}"),
    (r"bit-(?P<depth>50)", "bit-r{depth}x1"),
    (r"resnet-(?P<depth>\d+)", "resnet{depth}"),
    (rf"(?:vit-)?(?P<size>{_SHORT})[-/](?P<patch>\d+)", "vit-{size}/{patch}"),
    (
        rf"(?P<family>deit|deit3|beit|beitv2|dino|dinov2|dinov3|mae)-(?P<size>{_SHORT})[-/](?P<patch>\d+)",
        "{family}-{size}/{patch}",
    ),
)


def canonical(name: str, known: Collection[str]) -> tuple[str, int | None] | None:
    """Returns the architecture and the image size of a model name of another library.

    The image size is None if the name contains none, or if the architecture already has this size. Returns None if the
    name is unknown.
    """
    if name in known:
        return name, None
    plain = re.sub(r"^[\w.-]+/(?=.*[a-z]{2})", "", name)  # the owner on the Hub
    plain = plain.partition(".")[0].replace("_", "-")  # remove the tag of weights in timm
    if plain in known:
        return plain, None
    giant = re.fullmatch(r"(?:[Vv]i[Tt][-_])?G[-_/](\d+)", plain)
    if giant and f"vit-G/{giant[1]}" in known:
        return f"vit-G/{giant[1]}", None
    for pattern, form in PATTERNS:
        if (match := re.fullmatch(pattern, plain.lower())) is None:
            continue
        parts = {key: value for key, value in match.groupdict().items() if value is not None}
        parts["size"] = {"t": "ti"}.get(size := SIZES.get(parts.get("size", ""), parts.get("size", "")), size)
        found, image = form.format(**parts), parts.get("image")
        if image and f"{found}-{image}" in known:
            return f"{found}-{image}", None
        if found in known:
            return found, int(image) if image else None
    return None


def similar(name: str, known: Collection[str], limit: int = 3) -> list[str]:
    """Returns architectures with a similar name: of the same family and size first, with the nearest patch size."""
    plain = re.sub(r"^[A-Za-z][\w.-]*/(?=[A-Za-z])", "", name)  # the owner on the Hub
    plain = re.sub(r"-patch(\d+)", r"/\1", plain.partition(".")[0].replace("_", "-").lower())
    words = re.split(r"(?<=-)|(?=[-/])", plain)
    near = (difflib.get_close_matches(word, SIZES, n=1, cutoff=0.8) if len(word) > 3 else [] for word in words)
    plain = "".join(SIZES[found[0]] if found else word for word, found in zip(words, near, strict=True))
    plain = re.sub(r"^([a-z0-9+-]*?[a-z])-(\d+)$", r"\1/\2", re.sub(r"(/\d+)-\d{3}$", r"\1", plain))
    wanted = _parts(plain)
    if wanted is not None:
        patch = int(wanted[2])
        same = [each for each in known if (parts := _parts(each)) and parts[:2] == wanted[:2]]
        # Of two equally near sizes the multiple of 8, which most published models have.
        same.sort(key=lambda each: (abs(_patch(each) - patch), _patch(each) % 8, len(each)))
        if same:
            return same[: limit if _patch(same[0]) == patch else 1]
    return difflib.get_close_matches(plain, known, n=limit, cutoff=0.6)


def _parts(name: str) -> tuple[str, str, str] | None:
    """Splits a name such as `vit-b/16` into family, size and patch size. Returns None for other names."""
    match = re.fullmatch(r"([a-z0-9+-]*[a-z0-9])-([A-Za-z0-9+]+(?:-opt)?)/(\d+)(?:-.*)?", name)
    return None if match is None else (match[1], match[2], match[3])


def _patch(name: str) -> int:
    parts = _parts(name)
    return int(parts[2]) if parts else 0
