"""Table 2 of the ViT paper: comparison of the best models with the state of the art (section 4.2)."""

from vitkit.models import bit
from vitkit.paper import Experiment, Findings, Table, _commands, figure3
from vitkit.paper._comparison import caveat
from vitkit.paper._significance import compare
from vitkit.paper.small_scale import SmallScale, Variant, raw

STEPS = 300
COLUMNS = ("dataset", "ViT-H/14 (JFT)", "ViT-L/16 (JFT)", "ViT-L/16 (ImageNet-21k)", "BiT-L", "Noisy Student")
# Fine-tuning steps and learning rate of each dataset, and the image size of each model for ImageNet.
SETS = {"imagenet": (20_000, 0.03), "cifar10": (10_000, 0.01), "cifar100": (10_000, 0.03)} | dict.fromkeys(
    ("pets", "flowers102"), (500, 0.01)
)
MODELS = {"vit.h14_jft": 518, "vit.l16_jft": 512, "vit.l16_imagenet21k": 512}


def _full() -> tuple[str, ...]:
    lines = []
    for recipe, image_size in MODELS.items():
        lines.append(_commands.pretrain(recipe, _commands.IMAGENET_21K if "21k" in recipe else _commands.JFT))
        for name, (steps, rate) in SETS.items():
            out, start = f"runs/{recipe}_{name}", f"runs/{recipe}/best"
            source = _commands.IMAGENET if name == "imagenet" else f"parquet:/data/{name}"
            extra = "ema=0.9999" if name == "imagenet" else ""
            default = _commands.H14_AT_384 if "h14" in recipe else 384
            size = image_size if name == "imagenet" else default
            lines.append(_commands.finetune(start, source, out, steps=steps, lr=rate, image_size=size, extra=extra))
        real = f"runs/{recipe}_imagenet/best --data {_commands.IMAGENET} --with top1,real:real.json"
        lines.append(f"vitkit evaluate {real}")
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Table 2: comparison with the state of the art",
    section="section 4.2",
    shows="Accuracy after fine-tuning and pre-training cost of ViT-H/14, ViT-L/16, BiT-L and Noisy Student.",
    published=Table(
        COLUMNS,
        (
            ("ImageNet", 88.55, 87.76, 85.30, 87.54, "88.4/88.5"),
            ("ImageNet ReaL", 90.72, 90.54, 88.62, 90.54, 90.55),
            ("CIFAR-10", 99.50, 99.42, 99.15, 99.37, None),
            ("CIFAR-100", 94.55, 93.90, 93.25, 93.51, None),
            ("Pets", 97.56, 97.32, 94.67, 96.62, None),
            ("Flowers-102", 99.68, 99.74, 99.61, 99.63, None),
            ("VTAB (19 tasks)", 77.63, 76.28, 72.72, 76.29, None),
            ("TPUv3-core-days", "2.5k", "0.68k", "0.23k", "9.9k", "12.3k"),
        ),
    ),
    full=_full(),
    needs="JFT-300M (not public), ImageNet-21k, and the fine-tuning datasets",
    small="Two sizes of ViT and a ResNet, pre-trained on half of the classes and fine-tuned on a few images of each of "
    "the other classes; mean and deviation over seeds.",
    minutes=2,
)


def study(small: SmallScale) -> Findings:
    """Pre-trains and fine-tunes small versions of the three models in Table 2 of the ViT paper."""
    size = (small.side, small.side)
    variants = {
        "ViT, larger": Variant(small.vit(width=96, num_heads=6, mlp_width=192)),
        "ViT, smaller": Variant(small.vit(width=32, num_heads=2, mlp_width=64)),
        "ResNet": Variant(bit.Config(image_size=size, depths=(1, 1, 1), stem_width=16, num_groups=4)),
    }
    outcomes = small.sweep(variants, STEPS)
    trials = [figure3.tuned(small, each.name, each.folders) for each in outcomes]
    rows = tuple(
        (each.name, trial.percent, each.fewshot.percent, round(each.flops / 1e6, 2))
        for each, trial in zip(outcomes, trials, strict=True)
    )
    return Findings(
        table=Table(("model", figure3.BETTER, "5-shot, other classes (%)", "million FLOPs per image"), rows),
        remarks=(*compare(trials, "Accuracy after fine-tuning"), caveat(small)),
        numbers={**raw(outcomes), "tuned": {trial.name: trial.values for trial in trials}},
    )
