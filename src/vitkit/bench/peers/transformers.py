"""Hugging Face transformers, with the settings `attn=sdpa|eager`, `compile=MODE` and `autocast=true`."""

import sys
from typing import Any

import numpy as np

from vitkit.bench import Candidate, Job, Prepared
from vitkit.bench.peers import timm

NEEDS = ("transformers", "torch", "torchvision")
LAYOUT = "huggingface"

IMPORT = "from transformers import ViTForImageClassification, ViTImageProcessor"
CLASSIFY = """
import sys
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1])
best = classify(sys.argv[2], top_k=1)[0]["label"]
print(classify.model.config.label2id[best])
"""


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the precisions of the peer `timm` or, for the `data` benchmark, the image processors `fast` and `pil`."""
    return ("fast", "pil") if kind == "data" else timm.precisions(kind, device)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs forward passes of `AutoModelForImageClassification`."""
    from vitkit.bench import torch_network

    return torch_network.prepare_inference(job, candidate, _model(job, candidate), lambda output: output.logits)


def classification(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that classifies image files with `pipeline("image-classification")`."""
    import transformers

    from vitkit.bench import torch_network

    torch_network.set_up(job)
    classify: Any = transformers.pipeline("image-classification", model=f"{job.folder}/huggingface", device=job.device)
    index = classify.model.config.label2id

    def run() -> list[int]:
        return [index[found[0]["label"]] for found in classify(list(job.images), top_k=1)]

    notes = {"method": "pipeline with defaults", "processor": type(classify.image_processor).__name__}
    return Prepared(run=run, items=len(job.images), outputs=np.array(run()), notes=notes)


def training(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs training steps of transformers' model."""
    from vitkit.bench import torch_network

    return torch_network.prepare_training(job, candidate, _model(job, candidate), lambda output: output.logits)


def data(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that preprocesses single images with the `fast` (torchvision) or `pil` processor."""
    import transformers
    from PIL import Image

    from vitkit.bench.kinds.data import prepare_reading

    kind = transformers.ViTImageProcessor if candidate.precision == "fast" else transformers.ViTImageProcessorPil
    rows, columns = job.image_size
    processor: Any = kind(size={"height": rows, "width": columns})

    def one(name: str) -> np.ndarray:
        return np.asarray(processor(Image.open(name).convert("RGB"), return_tensors="np")["pixel_values"][0])

    return prepare_reading(job, one, kind.__name__)


def startup(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that imports ViT classes or classifies one image, each in a new process."""
    from vitkit.bench.kinds.startup import prepare_process

    if job.task == "import":
        return prepare_process([sys.executable, "-c", IMPORT], classifies=False)
    return prepare_process(
        [sys.executable, "-c", CLASSIFY, f"{job.folder}/huggingface", job.images[0]], classifies=True
    )


def _model(job: Job, candidate: Candidate) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForImageClassification.from_pretrained(
        f"{job.folder}/huggingface", dtype=torch.float32, attn_implementation=candidate.setting("attn", "sdpa")
    )
