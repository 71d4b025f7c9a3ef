"""Figure 8 of the ViT paper: scaling depth, width, MLP width or patch size of a ViT (appendix D.2)."""

from dataclasses import replace

from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import against_flops, findings
from vitkit.paper.small_scale import SmallScale, Variant

STEPS = 200
BASE = "base"
# Values of each dimension at small scale.
LINES = {
    "depth": ({"depth": 1}, {"depth": 6}),
    "width": ({"width": 32}, {"width": 128}),
    "MLP": ({"mlp_width": 64}, {"mlp_width": 512}),
    "patch": ({"patch_size": (8, 8)}, {"patch_size": (2, 2)}),
    "all": (
        {"depth": 2, "width": 32, "mlp_width": 64},
        {"depth": 4, "width": 96, "mlp_width": 192},
    ),
}


def _full() -> tuple[str, ...]:
    base = ("model.depth=8", "model.width=1024", "model.num_heads=16", "model.mlp_width=2048")
    changes = {
        "base": (),
        "depth": ("model.depth=32",),
        "width": ("model.width=2048", "model.num_heads=32"),
        "mlp": ("model.mlp_width=8192",),
        "patch": ("model.patch_size=[8,8]",),
    }
    lines = []
    for name, settings in changes.items():
        merged = {setting.partition("=")[0]: setting for setting in (*base, *settings)}
        if name == "width":
            merged["model.pre_logits"] = "model.pre_logits=2048"
        else:
            merged["model.pre_logits"] = "model.pre_logits=1024"
        out = f"runs/figure8_{name}"
        lines.append(_commands.pretrain("vit.b32_jft", _commands.JFT, *merged.values(), out=out))
        lines.append(_commands.fewshot(f"{out}/best"))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Figure 8: the shape of a ViT",
    section="appendix D.2",
    shows="5-shot accuracy against compute when the depth, width, MLP width or patch size of a ViT, or all, is scaled.",
    published=Table(
        ("dimension", "result (curves without numbers)"),
        (
            ("base", "8 layers, width 1024, MLP 2048, patches of 32"),
            ("depth", "largest improvement, up to 64 layers, but less after 16"),
            ("width", "smallest improvement"),
            ("patch", "smaller patches improve steadily without more parameters"),
            ("all", "proportional scaling: robust improvement"),
        ),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="A base model of 3 layers, width 64, MLP 128 and patches of 4, and each dimension below and above it.",
    minutes=4,
)


def study(small: SmallScale) -> Findings:
    """Pre-trains the base model and every variant."""
    base = small.vit()
    variants = {BASE: Variant(base)}
    for line, steps in LINES.items():
        for changes in steps:
            # The head width is 16 for all variants; in the paper it is 64.
            heads = changes.get("width", base.width) // 16
            variants[f"{line} {_size(changes)}"] = Variant(replace(base, num_heads=heads, **changes))
    outcomes = small.sweep(variants, STEPS)
    result = findings(EXPERIMENT.title, outcomes, {}, small)
    kinds = {
        line: [(each.flops, each) for each in outcomes if each.name == BASE or each.name.startswith(f"{line} ")]
        for line in LINES
    }
    drawing = against_flops("Figure 8: held-out accuracy against FLOPs per image, at small scale", kinds)
    return replace(result, drawings={"": drawing, "all": result.drawings[""]})


def _size(changes: dict) -> str:
    values = [value[0] if isinstance(value, tuple) else value for value in changes.values()]
    return "/".join(map(str, values))
