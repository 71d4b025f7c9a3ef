"""Figure 8: which dimension of a ViT to scale - depth, width, MLP, patch size, or all (appendix D.2)."""

from dataclasses import replace

from vitkit.paper import Exhibit, Findings, Table, commands
from vitkit.paper.comparison import against_flops, findings
from vitkit.paper.small import Small, Variant

STEPS = 200
BASE = "base"
# At small scale: what each dimension is set to, in the order of its line.
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
        merged = {word.partition("=")[0]: word for word in (*base, *settings)}
        if name == "width":
            merged["model.pre_logits"] = "model.pre_logits=2048"
        else:
            merged["model.pre_logits"] = "model.pre_logits=1024"
        out = f"runs/figure8_{name}"
        lines.append(commands.pretrain("vit.b32_jft", commands.JFT, *merged.values(), out=out))
        lines.append(commands.fewshot(f"{out}/best"))
    return tuple(lines)


EXHIBIT = Exhibit(
    title="Figure 8: the shape of a ViT",
    section="appendix D.2",
    shows="5-shot accuracy against compute when depth, width, MLP width or patch size of a ViT is scaled, or all.",
    published=Table(
        ("dimension", "result (curves; no numbers are printed)"),
        (
            ("base", "8 layers, width 1024, MLP 2048, patches of 32"),
            ("depth", "gains most, visibly to 64 layers, less after 16"),
            ("width", "gains least"),
            ("patch", "smaller patches gain steadily, without a parameter more"),
            ("all", "in proportion: robust gains"),
        ),
    ),
    full=_full(),
    needs=commands.NEEDS_JFT,
    small="A base of 3 layers, width 64, MLP 128 and patches of 4, and each dimension once below and once above it.",
    minutes=4,
)


def study(small: Small) -> Findings:
    """Every line through the base."""
    base = small.vit()
    variants = {BASE: Variant(base)}
    for line, steps in LINES.items():
        for changes in steps:
            # Heads stay 16 wide, as the paper's stay 64.
            heads = changes.get("width", base.width) // 16
            variants[f"{line} {_size(changes)}"] = Variant(replace(base, num_heads=heads, **changes))
    outcomes = small.sweep(variants, STEPS)
    found = findings(EXHIBIT.title, outcomes, {}, small)
    kinds = {
        line: [(each.flops, each) for each in outcomes if each.name == BASE or each.name.startswith(f"{line} ")]
        for line in LINES
    }
    drawing = against_flops("Figure 8: held-out accuracy against FLOPs a picture, at small scale", kinds)
    return replace(found, drawings={"": drawing, "all": found.drawings[""]})


def _size(changes: dict) -> str:
    values = [value[0] if isinstance(value, tuple) else value for value in changes.values()]
    return "/".join(map(str, values))
