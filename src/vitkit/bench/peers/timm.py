"""timm, eager; `timm:compile=MODE` compiles it, `timm:autocast=true` keeps its weights in float32."""

import sys
from typing import Any

import numpy as np

from vitkit.bench import Contender, Job, Prepared

NEEDS = ("timm", "torch")
LAYOUT = "timm"

IMPORT = "import timm; timm.create_model"
CLASSIFY = """
import sys, timm, torch
from PIL import Image
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    print(int(model(transform(Image.open(sys.argv[2]).convert("RGB")).unsqueeze(0)).argmax()))
"""


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Float32 and the halves that the device is fast in; nothing to choose where photos are read."""
    if kind in ("inference", "training"):
        return ("float32", "bfloat16", *(["float16"] if device == "cuda" and kind == "inference" else []))
    return ("",)


def inference(job: Job, contender: Contender) -> Prepared:
    """`create_model(...)(batch)`."""
    from vitkit.bench import torch_network

    return torch_network.passes(job, contender, _model(job), lambda output: output)


def photos(job: Job, contender: Contender) -> Prepared:
    """The loop that timm's documentation shows: its own transform, one picture at a time, the likeliest class."""
    import torch
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    from vitkit.bench import torch_network

    device = torch_network.start(job)
    model = _model(job).eval().to(device)
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)

    def run() -> list[int]:
        found = []
        with torch.no_grad():
            for name in job.photos:
                picture = transform(Image.open(name).convert("RGB")).unsqueeze(0).to(device)
                found.append(int(model(picture).softmax(dim=1).argmax()))
        return found

    return Prepared(
        run=run, items=len(job.photos), outputs=np.array(run()), notes={"how": "one at a time, as its docs"}
    )


def training(job: Job, contender: Contender) -> Prepared:
    """A step of its model by hand."""
    from vitkit.bench import torch_network

    return torch_network.steps(job, contender, _model(job), lambda output: output)


def data(job: Job, contender: Contender) -> Prepared:
    """Its evaluation transform, told to squash bilinearly to the same size and statistics as the others."""
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    from vitkit.bench.kinds.data import each_file

    half = (0.5, 0.5, 0.5)
    transform: Any = create_transform(
        input_size=(3, *job.image_size), crop_pct=1.0, crop_mode="squash", interpolation="bilinear", mean=half, std=half
    )
    return each_file(job, lambda name: transform(Image.open(name).convert("RGB")).numpy(), "create_transform")


def startup(job: Job, contender: Contender) -> Prepared:
    """A process that has imported it, or that has classified one photo as its documentation shows."""
    from vitkit.bench.kinds.startup import processes

    if job.task == "import":
        return processes([sys.executable, "-c", IMPORT], 0)
    return processes([sys.executable, "-c", CLASSIFY, f"{job.folder}/timm", job.photos[0]], 1)


def _model(job: Job) -> Any:
    import timm

    return timm.create_model(f"local-dir:{job.folder}/timm", pretrained=True)
