"""Figure 12 of the ViT paper: speed and largest batch that fits in memory, by input size (appendix D.5)."""

import torch

from vitkit import models
from vitkit.evaluation import throughput
from vitkit.explanation import Curve, Curves
from vitkit.models import Backbone
from vitkit.paper import Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale

MODELS = ("vit-ti/16", "vit-s/32", "r+vit-ti/16", "bit-r50x1")
SIZES = (64, 128, 224)
MEMORY = 16 * 2**30  # of a TPUv3 core
COPIES = 4  # weights, gradients, and the two moments of Adam
BYTES = 4

EXPERIMENT = Experiment(
    title="Figure 12: speed and memory in practice",
    section="appendix D.5",
    shows="Left: images per second of ViTs and ResNets by input size. Right: the largest batch that fits on a core; "
    "large ViTs have a clear advantage.",
    published=Table(
        ("part", "result (curves without numbers)"),
        (
            (
                "speed",
                "ViTs are as fast as ResNets of similar size; quadratic scaling is barely visible at the largest sizes",
            ),
            ("memory", "ViTs fit larger batches than ResNets"),
        ),
    ),
    full=(
        "vitkit evaluate google/vit-base-patch16-224 --data folder:images/ --with throughput,flops --batch-size 64",
        "vitkit evaluate google/vit-large-patch16-224 --data folder:images/ --with throughput,flops --batch-size 64",
    ),
    needs="a GPU or TPU, checkpoints and images (--data folder:images/)",
    small="Four small models on one CPU thread. The batch that fits in 16 GiB is computed from the bytes that autograd "
    "saves, on the meta device.",
    minutes=1,
)


def study(small: SmallScale) -> Findings:
    """Measures the speed and computes the training memory of every model at every image size."""
    rows, curves = [], []
    for name in MODELS:
        speeds = []
        for size in SIZES:
            config = models.preset(name, image_size=size)
            per_second = speed(config, size, batches=small.length(5))
            saved, fits = memory(config, size)
            speeds.append(per_second)
            rows.append((name, size, round(per_second, 1), round(saved / 2**20, 1), fits))
            small.log(f"{name} at {size} pixels: {per_second:.1f} images per second")
        curves.append(Curve(name, tuple(map(float, SIZES)), tuple(speeds)))
    columns = ("model", "pixels per side", "images per second", "MiB per image in training", "images in 16 GiB")
    title = "Figure 12: speed by input size on one CPU thread"
    return Findings(
        table=Table(columns, tuple(rows)),
        drawings={"": Curves(title, "pixels per side", "images per second", tuple(curves), log_x=True)},
        remarks=(
            "Speeds are those of this machine and its current load; the paper's are those of a TPUv3 core.",
            "Memory is four float32 copies of the weights (for gradients and Adam) and all tensors saved by autograd.",
        ),
        numbers={f"{row[0]} {row[1]}": row[2:] for row in rows},
    )


def speed(config: object, size: int, *, batches: int) -> float:
    """Measures how many images per second a randomly initialized model processes on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, images = models.build(config).eval(), torch.zeros(4, 3, size, size)
        return throughput.measure(model, images, warm_up=1, batches=batches).images_per_second
    finally:
        torch.set_num_threads(threads)


def memory(config: object, size: int) -> tuple[int, int]:
    """Returns the bytes per image that autograd saves, and the largest batch size that fits in `MEMORY` bytes.

    Runs on the meta device with two and four images to separate the bytes per image from those per step, such as
    standardized filters. (With one image, torch saves some tensors in another form.)
    """
    model = models.build(config, device="meta").train()
    two, four = (saved_bytes(model, size, images) for images in (2, 4))
    each, once = (four - two) // 2, 2 * two - four
    weights = sum(parameter.numel() for parameter in model.parameters()) * BYTES * COPIES
    return each, max(0, (MEMORY - weights - once) // each)


def saved_bytes(model: Backbone, size: int, images: int) -> int:
    """Returns the size in bytes of all tensors that autograd saves in a forward pass, without the weights."""
    weights = {id(parameter) for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    alive = []  # references prevent that an id is reused

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        origin = tensor if tensor._base is None else tensor._base
        if id(origin) not in weights:
            sizes[id(origin)] = origin.numel() * origin.element_size()
            alive.append(origin)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.empty(images, 3, size, size, device="meta"))
    return sum(sizes.values())
