"""Hugging Face transformers; `attn=sdpa|eager`, `compile=MODE` and `autocast=true` are settings."""

import sys
from typing import Any

import numpy as np

from vitkit.bench import Contender, Job, Prepared
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
    """As timm's; in `data` its two processors instead."""
    return ("fast", "pil") if kind == "data" else timm.precisions(kind, device)


def inference(job: Job, contender: Contender) -> Prepared:
    """`AutoModelForImageClassification`'s logits."""
    from vitkit.bench import torch_network

    return torch_network.passes(job, contender, _model(job, contender), lambda output: output.logits)


def photos(job: Job, contender: Contender) -> Prepared:
    """`pipeline("image-classification")(files)`."""
    import transformers

    from vitkit.bench import torch_network

    torch_network.start(job)
    classify: Any = transformers.pipeline("image-classification", model=f"{job.folder}/huggingface", device=job.device)
    index = classify.model.config.label2id

    def run() -> list[int]:
        return [index[found[0]["label"]] for found in classify(list(job.photos), top_k=1)]

    notes = {"how": "pipeline, its defaults", "processor": type(classify.image_processor).__name__}
    return Prepared(run=run, items=len(job.photos), outputs=np.array(run()), notes=notes)


def training(job: Job, contender: Contender) -> Prepared:
    """A step of its model by hand."""
    from vitkit.bench import torch_network

    return torch_network.steps(job, contender, _model(job, contender), lambda output: output.logits)


def data(job: Job, contender: Contender) -> Prepared:
    """ViTImageProcessor in its torchvision form (`fast`) or its Pillow form (`pil`), one photo at a time."""
    import transformers
    from PIL import Image

    from vitkit.bench.kinds.data import each_file

    kind = transformers.ViTImageProcessor if contender.precision == "fast" else transformers.ViTImageProcessorPil
    rows, columns = job.image_size
    processor: Any = kind(size={"height": rows, "width": columns})

    def one(name: str) -> np.ndarray:
        return np.asarray(processor(Image.open(name).convert("RGB"), return_tensors="np")["pixel_values"][0])

    return each_file(job, one, kind.__name__)


def startup(job: Job, contender: Contender) -> Prepared:
    """A process that has its ViT classes, or that has classified one photo with a pipeline."""
    from vitkit.bench.kinds.startup import processes

    if job.task == "import":
        return processes([sys.executable, "-c", IMPORT], 0)
    return processes([sys.executable, "-c", CLASSIFY, f"{job.folder}/huggingface", job.photos[0]], 1)


def _model(job: Job, contender: Contender) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForImageClassification.from_pretrained(
        f"{job.folder}/huggingface", dtype=torch.float32, attn_implementation=contender.setting("attn", "sdpa")
    )
