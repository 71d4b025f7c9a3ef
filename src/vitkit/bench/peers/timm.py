"""timm in eager mode. The setting `compile=MODE` compiles the model, and `autocast=true` enables autocast."""

import sys
from typing import Any

import numpy as np

from vitkit.bench import Candidate, Job, Prepared

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
    """Returns float32, bfloat16 and, for GPU inference, float16. For benchmarks that read files, returns ("",)."""
    if kind in ("inference", "training"):
        return ("float32", "bfloat16", *(["float16"] if device == "cuda" and kind == "inference" else []))
    return ("",)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs forward passes of a model created by `timm.create_model`."""
    from vitkit.bench import torch_network

    return torch_network.prepare_inference(job, candidate, _model(job), lambda output: output)


def classification(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that classifies one image at a time, as in timm's documentation."""
    import torch
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    from vitkit.bench import torch_network

    device = torch_network.set_up(job)
    model = _model(job).eval().to(device)
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)

    def run() -> list[int]:
        found = []
        with torch.no_grad():
            for name in job.images:
                image = transform(Image.open(name).convert("RGB")).unsqueeze(0).to(device)
                found.append(int(model(image).argmax()))
        return found

    return Prepared(
        run=run, items=len(job.images), outputs=np.array(run()), notes={"method": "one image at a time, as documented"}
    )


def training(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs training steps of timm's model."""
    from vitkit.bench import torch_network

    return torch_network.prepare_training(job, candidate, _model(job), lambda output: output)


def data(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs timm's evaluation transform, with bilinear resizing and no cropping."""
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    from vitkit.bench.kinds.data import prepare_reading

    half = (0.5, 0.5, 0.5)
    transform: Any = create_transform(
        input_size=(3, *job.image_size), crop_pct=1.0, crop_mode="squash", interpolation="bilinear", mean=half, std=half
    )
    return prepare_reading(job, lambda name: transform(Image.open(name).convert("RGB")).numpy(), "create_transform")


def startup(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that imports timm or classifies one image, each in a new process."""
    from vitkit.bench.kinds.startup import prepare_process

    if job.task == "import":
        return prepare_process([sys.executable, "-c", IMPORT], classifies=False)
    return prepare_process([sys.executable, "-c", CLASSIFY, f"{job.folder}/timm", job.images[0]], classifies=True)


def _model(job: Job) -> Any:
    import timm

    return timm.create_model(f"local-dir:{job.folder}/timm", pretrained=True)
