"""Figure 12: speed over input sizes, and how many pictures fit the memory of a device (appendix D.5)."""

import torch

from vitkit import models
from vitkit.evaluate import throughput
from vitkit.explain import Curve, Curves
from vitkit.models import Backbone
from vitkit.paper import Exhibit, Findings, Table
from vitkit.paper.small import Small

MODELS = ("vit-ti/16", "vit-s/32", "r+vit-ti/16", "bit-r50x1")
SIZES = (64, 128, 224)
MEMORY = 16 * 2**30  # of a TPUv3 core
COPIES = 4  # weights, gradients, and the two moments of Adam
BYTES = 4

EXHIBIT = Exhibit(
    title="Figure 12: speed and memory in practice",
    section="appendix D.5",
    shows="Left: pictures a second by input size of ViTs and ResNets, similar at first and falling later for ViTs. "
    "Right: the largest batch that fits a core, in which large ViTs have a clear advantage.",
    published=Table(
        ("part", "result (curves; no numbers are printed)"),
        (
            (
                "speed",
                "ViTs are as fast as ResNets of similar size; quadratic growth barely shows at the largest sizes",
            ),
            ("memory", "ViTs fit larger batches than ResNets"),
        ),
    ),
    full=(
        "vitkit evaluate google/vit-base-patch16-224 --data folder:photos/ --with throughput,flops --batch-size 64",
        "vitkit evaluate google/vit-large-patch16-224 --data folder:photos/ --with throughput,flops --batch-size 64",
    ),
    needs="a GPU or TPU, checkpoints and photos (--data folder:photos/)",
    small="Four small models on one thread of this processor; the batch that fits 16 GiB is worked out from the bytes "
    "that a training step keeps, without running it.",
    minutes=1,
)


def study(small: Small) -> Findings:
    """The speed of every model at every size, and the bytes it keeps."""
    rows, curves = [], []
    for name in MODELS:
        speeds = []
        for size in SIZES:
            config = models.preset(name, image_size=size)
            per_second = speed(config, size, batches=small.length(5))
            kept, fits = memory(config, size)
            speeds.append(per_second)
            rows.append((name, size, round(per_second, 1), round(kept / 2**20, 1), fits))
            small.say(f"{name} at {size} pixels: {per_second:.1f} pictures a second")
        curves.append(Curve(name, tuple(map(float, SIZES)), tuple(speeds)))
    columns = ("model", "pixels a side", "pictures a second", "MiB a picture in training", "pictures in 16 GiB")
    title = "Figure 12: speed by input size on one thread of this processor"
    return Findings(
        table=Table(columns, tuple(rows)),
        drawings={"": Curves(title, "pixels a side", "pictures a second", tuple(curves), log_x=True)},
        remarks=(
            "Speeds are of this machine, whatever else ran on it; the paper's are of a TPUv3 core.",
            "Memory counts float32 weights four times (gradients, Adam) and all that the backward pass reads.",
        ),
        numbers={f"{row[0]} {row[1]}": row[2:] for row in rows},
    )


def speed(config: object, size: int, *, batches: int) -> float:
    """Pictures a second on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, images = models.build(config).eval(), torch.zeros(4, 3, size, size)
        return throughput.measure(model, images, warm_up=1, batches=batches).images_per_second
    finally:
        torch.set_num_threads(threads)


def memory(config: object, size: int) -> tuple[int, int]:
    """The bytes that a training step keeps of each picture, and how many pictures fit `MEMORY`; on the meta device.

    What is kept once a step, as standardised filters are, is what two and four pictures have in common. (Of one picture
    alone torch keeps some tensors in another form.)
    """
    model = models.build(config, device="meta").train()
    two, four = (saved(model, size, pictures) for pictures in (2, 4))
    each, once = (four - two) // 2, 2 * two - four
    weights = sum(parameter.numel() for parameter in model.parameters()) * BYTES * COPIES
    return each, max(0, (MEMORY - weights - once) // each)


def saved(model: Backbone, size: int, pictures: int) -> int:
    """The bytes of all tensors that autograd keeps of some pictures, each storage once, the weights left out."""
    known = {id(parameter) for parameter in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # so that no number of a tensor is given twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        origin = tensor if tensor._base is None else tensor._base
        if id(origin) not in known:
            found[id(origin)] = origin.numel() * origin.element_size()
            alive.append(origin)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.empty(pictures, 3, size, size, device="meta"))
    return sum(found.values())
