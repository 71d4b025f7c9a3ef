"""torchvision's VisionTransformer and transforms, with the settings `compile=MODE` and `autocast=true`."""

from typing import Any

import numpy as np

from vitkit.bench import Candidate, Job, Prepared
from vitkit.bench.peers import timm

NEEDS = ("torchvision", "torch")


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the precisions that the peer `timm` supports."""
    return timm.precisions(kind, device)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Prepares forward passes of torchvision's VisionTransformer."""
    from vitkit.bench import torch_network

    return torch_network.prepare_inference(job, candidate, _model(job), lambda output: output)


def training(job: Job, candidate: Candidate) -> Prepared:
    """Prepares training steps of torchvision's model."""
    from vitkit.bench import torch_network

    return torch_network.prepare_training(job, candidate, _model(job), lambda output: output)


def data(job: Job, candidate: Candidate) -> Prepared:
    """Prepares torchvision's v2 transforms on tensors, with antialiasing, as torchvision's documentation recommends."""
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    from vitkit.bench.kinds.data import prepare_reading

    torch.set_num_threads(job.threads)
    transform = v2.Compose(
        [
            v2.Resize(job.image_size, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ]
    )

    def one(name: str) -> np.ndarray:
        return transform(decode_image(name, mode=ImageReadMode.RGB)).numpy()

    return prepare_reading(job, one, "decode_image, transforms.v2")


def _model(job: Job) -> Any:
    import torchvision

    from vitkit.checkpoints import load
    from vitkit.checkpoints.formats.torchvision.vit import FORMAT, TABLE

    ours = load(f"{job.folder}/vitkit").model
    config = ours.config
    reason = FORMAT.unsupported_reason(config) if ours.family == "vit" else "its only family is ViT"
    if reason:
        raise ValueError(f"torchvision does not support this model: {reason}")
    model = torchvision.models.VisionTransformer(
        image_size=config.image_size[0],
        patch_size=config.patch_size[0],
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_width,
        num_classes=config.num_classes,
    )
    model.load_state_dict(TABLE.saved(ours.state_dict(), config.num_heads))
    return model
