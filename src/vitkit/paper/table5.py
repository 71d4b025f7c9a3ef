"""Table 5 of the ViT paper: transfer accuracy of every ViT, by pre-training dataset (appendix D)."""

from vitkit.paper import Experiment, Findings, Table, _commands, figure3
from vitkit.paper.small_scale import SmallScale

COLUMNS = ("pre-trained on", "fine-tuned on", "ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14")
SETS = {"cifar10": (10_000, 0.01), "cifar100": (10_000, 0.03), "imagenet": (20_000, 0.03)} | dict.fromkeys(
    ("flowers102", "pets"), (500, 0.01)
)


def _full() -> tuple[str, ...]:
    lines = []
    for data, source in (
        ("imagenet", _commands.IMAGENET),
        ("imagenet21k", _commands.IMAGENET_21K),
        ("jft", _commands.JFT),
    ):
        for size in ("b16", "b32", "l16", "l32"):
            recipe = f"vit.{size}_{data}"
            lines.append(_commands.pretrain(recipe, source))
            for name, (steps, rate) in SETS.items():
                target = _commands.IMAGENET if name == "imagenet" else f"parquet:/data/{name}"
                start, out = f"runs/{recipe}/best", f"runs/{recipe}_{name}"
                lines.append(_commands.finetune(start, target, out, steps=steps, lr=rate))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Table 5: transfer from three pre-training datasets",
    section="appendix D, with Figure 3",
    shows="Accuracy of all ViTs pre-trained on ImageNet, ImageNet-21k and JFT-300M, after fine-tuning at 384 pixels.",
    published=Table(
        COLUMNS,
        (
            ("ImageNet", "CIFAR-10", 98.13, 97.77, 97.86, 97.94, None),
            ("ImageNet", "CIFAR-100", 87.13, 86.31, 86.35, 87.07, None),
            ("ImageNet", "ImageNet", 77.91, 73.38, 76.53, 71.16, None),
            ("ImageNet", "ImageNet ReaL", 83.57, 79.56, 82.19, 77.83, None),
            ("ImageNet", "Flowers-102", 89.49, 85.43, 89.66, 86.36, None),
            ("ImageNet", "Pets", 93.81, 92.04, 93.64, 91.35, None),
            ("ImageNet-21k", "CIFAR-10", 98.95, 98.79, 99.16, 99.13, 99.27),
            ("ImageNet-21k", "CIFAR-100", 91.67, 91.97, 93.44, 93.04, 93.82),
            ("ImageNet-21k", "ImageNet", 83.97, 81.28, 85.15, 80.99, 85.13),
            ("ImageNet-21k", "ImageNet ReaL", 88.35, 86.63, 88.40, 85.65, 88.70),
            ("ImageNet-21k", "Flowers-102", 99.38, 99.11, 99.61, 99.19, 99.51),
            ("ImageNet-21k", "Pets", 94.43, 93.02, 94.73, 93.09, 94.82),
            ("JFT-300M", "CIFAR-10", 99.00, 98.61, 99.38, 99.19, 99.50),
            ("JFT-300M", "CIFAR-100", 91.87, 90.49, 94.04, 92.52, 94.55),
            ("JFT-300M", "ImageNet", 84.15, 80.73, 87.12, 84.37, 88.04),
            ("JFT-300M", "ImageNet ReaL", 88.85, 86.27, 89.99, 88.28, 90.33),
            ("JFT-300M", "Flowers-102", 99.56, 99.27, 99.56, 99.45, 99.68),
            ("JFT-300M", "Pets", 95.80, 93.40, 97.11, 95.83, 97.56),
        ),
    ),
    full=_full(),
    needs="ImageNet, ImageNet-21k and JFT-300M (not public), and the fine-tuning datasets",
    small=figure3.EXPERIMENT.small,
    minutes=figure3.EXPERIMENT.minutes,
)


def study(small: SmallScale) -> Findings:
    """Runs the study of Figure 3 of the ViT paper, which shows a part of the results in Table 5."""
    return figure3.study(small)
