"""Table 8 of the ViT paper: types of position embeddings, and the layers that add them (appendix D.4)."""

from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import findings
from vitkit.paper.small_scale import SmallScale, Variant

STEPS = 200
# 5-shot ImageNet accuracy of ViT-B/16 from JFT-300M in percent: kind, and at the stem, in every layer, or shared.
PUBLISHED = {
    "1-D, stem": 64.206,
    "none": 61.382,
    "1-D, every layer": 63.964,
    "1-D, shared": 64.292,
    "2-D, stem": 64.001,
    "2-D, every layer": 64.046,
    "2-D, shared": 64.022,
    "relative": 64.032,
}
KINDS: dict[str, dict[str, str]] = {
    "1-D": {"position": "learned"},
    "2-D": {"position": "factorized"},
    "relative": {"position": "relative"},
    "none": {"position": "none"},
    "sine-cosine": {"position": "sincos2d"},
}
LOCATIONS = {"stem": "stem", "every layer": "layers", "shared": "shared"}


def options(name: str) -> dict[str, str]:
    """Returns the model config fields of a variant by its name in Table 8 of the ViT paper."""
    kind, _, location = name.partition(", ")
    return {**KINDS[kind], **({"position_at": LOCATIONS[location]} if location else {})}


def _full() -> tuple[str, ...]:
    lines = []
    for name in PUBLISHED:
        out = f"runs/table8_{name.replace(', ', '_').replace(' ', '_')}"
        settings = tuple(f"model.{key}={value}" for key, value in options(name).items())
        lines.append(_commands.pretrain("vit.b16_jft", _commands.JFT, *settings, out=out))
        lines.append(_commands.fewshot(f"{out}/best"))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Table 8: position embeddings",
    section="appendix D.4",
    shows="5-shot accuracy on ImageNet of ViT-B/16 with no, 1-D, 2-D and relative position embeddings, at the stem, in "
    "every layer, or shared by all layers: no position embedding is worse, the others are similar.",
    published=Table(
        ("positions", "at the stem", "in every layer", "in every layer, shared"),
        (
            ("none", 0.61382, None, None),
            ("1-D", 0.64206, 0.63964, 0.64292),
            ("2-D", 0.64001, 0.64046, 0.64022),
            ("relative", 0.64032, None, None),
        ),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="The same eight variants and fixed sine-cosine embeddings in a ViT with 16 patches (64 at 32 pixels).",
    minutes=3,
)


def study(small: SmallScale) -> Findings:
    """Compares all variants with the ViT paper's default: learned 1-D position embeddings, added at the stem."""
    names = [*PUBLISHED, "sine-cosine"]
    variants = {name: Variant(small.vit(**options(name))) for name in names}
    return findings(EXPERIMENT.title, small.sweep(variants, STEPS), PUBLISHED, small, "ViT-B/16, 5-shot ImageNet (%)")
