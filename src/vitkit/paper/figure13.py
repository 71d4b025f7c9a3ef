"""Figure 13 of the ViT paper: FLOPs and speed of axial attention, full attention and a ResNet (appendix D.6)."""

from dataclasses import replace
from pathlib import Path

import torch

from vitkit import checkpoints
from vitkit.evaluation import throughput
from vitkit.models import axial, bit
from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import against_flops, findings
from vitkit.paper.small_scale import SmallScale, Variant

STEPS = 200
SPEED_BATCH = 32

EXPERIMENT = Experiment(
    title="Figure 13: axial attention",
    section="appendix D.6",
    shows="5-shot accuracy on ImageNet of Axial-ViT, AxialResNet, ViT and ResNet against FLOPs and speed: axial "
    "models are better than the ViTs and cost more; AxialResNet is slow.",
    published=Table(
        ("model", "result (curves without numbers)"),
        (
            ("Axial-ViT-B/32", "above ViT-B/32, at more compute"),
            ("Axial-ViT-B/16", "above ViT-B/16, at more compute"),
            ("AxialResNet", "reasonable by FLOPs, extremely slow on the accelerator"),
        ),
    ),
    full=tuple(
        line
        for recipe in ("vit.b32_jft", "vit.b16_jft", "baselines.axial_b32_jft", "baselines.axial_b16_jft")
        for line in (
            _commands.pretrain(recipe, _commands.JFT),
            _commands.fewshot(f"runs/{recipe}/best"),
            f"vitkit evaluate runs/{recipe}/best --data {_commands.IMAGENET} --with throughput,flops",
        )
    ),
    needs=_commands.NEEDS_JFT,
    small="ViT and Axial-ViT with patches of 4 and 2 pixels, and a ResNet; speed is measured on one CPU thread.",
    minutes=3.5,
)


def study(small: SmallScale) -> Findings:
    """Compares Axial-ViTs and a ResNet with plain ViTs, in accuracy, FLOPs and speed."""
    base, size = small.vit(), (small.side, small.side)
    shape = {name: getattr(base, name) for name in ("width", "depth", "num_heads", "mlp_width", "image_size")}
    variants = {
        "ViT /4": Variant(base),
        "Axial-ViT /4": Variant(axial.Config(**shape, patch_size=(4, 4))),
        "ViT /2": Variant(small.vit(patch_size=(2, 2))),
        "Axial-ViT /2": Variant(axial.Config(**shape, patch_size=(2, 2))),
        "ResNet": Variant(bit.Config(image_size=size, depths=(1, 1, 1), stem_width=16, num_groups=4)),
    }
    outcomes = small.sweep(variants, STEPS)
    speeds = {each.name: speed(each.folders[0], small.side) for each in outcomes}
    result = findings(EXPERIMENT.title, outcomes, {}, small)
    rows = tuple((*row, round(speeds[str(row[0])])) for row in result.table.rows)
    kinds = {each.name: [(each.flops, each)] for each in outcomes}
    by_speed = {each.name: [(speeds[each.name], each)] for each in outcomes}
    fast = against_flops("Figure 13: held-out accuracy against images per second, at small scale", by_speed)
    return replace(
        result,
        table=Table((*result.table.columns, "images per second"), rows),
        drawings={
            "": against_flops("Figure 13: held-out accuracy against FLOPs per image, at small scale", kinds),
            "speed": replace(fast, x_label="images per second, this CPU"),
        },
        numbers={**result.numbers, "images_per_second": speeds},
    )


def speed(folder: Path, side: int) -> float:
    """Measures how many images per second a checkpoint processes on one CPU thread."""
    model = checkpoints.load(folder).model.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return throughput.measure(model, torch.zeros(SPEED_BATCH, 3, side, side)).images_per_second
    finally:
        torch.set_num_threads(threads)
