"""Creates the inputs of benchmarks: synthetic JPEG files, and model weights in the format of every library."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from vitkit import checkpoints, models
from vitkit.config import AnyConfig
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.evaluation.flops import flops

LAYOUTS = ("vitkit", "huggingface", "timm")
SIZES = ((500, 375), (375, 500), (500, 333), (640, 480))


def write_jpegs(folder: Path, count: int) -> tuple[str, ...]:
    """Writes `count` JPEG files of smooth noise, with image sizes as in ImageNet, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = []
    for number in range(count):
        columns, rows = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(generator.integers(0, 256, (rows // 8, columns // 8, 3), np.uint8))
        fine = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), np.uint8))
        smooth = coarse.resize((columns, rows), Image.Resampling.BICUBIC)
        image = Image.blend(smooth, fine.filter(ImageFilter.GaussianBlur(1)), 0.25)
        name = folder / f"image{number:04}.jpg"
        image.save(name, quality=90)
        names.append(str(name))
    return tuple(names)


def write_weights(source: str, folder: Path) -> tuple[AnyConfig, dict[str, int], dict[str, str]]:
    """Saves a model in every checkpoint layout that supports it, each to `folder/<layout>`.

    `source` is an architecture (`vit-b/16`), which gets random weights, or a checkpoint. Returns the config of the
    model, the shape for `Job`, and the reasons of unsupported layouts. Raises ValueError for an unknown source.
    """
    checkpoint = _random(source) if checkpoints.is_architecture(source) else _loaded(source)
    unsupported = {}
    for layout in LAYOUTS:
        try:
            checkpoints.save(checkpoint, folder / layout, to=layout, overwrite=True)
        except checkpoints.CheckpointError as error:
            unsupported[layout] = str(error)
    return checkpoint.model.config, _shape(checkpoint.model), unsupported


def _loaded(source: str) -> checkpoints.Checkpoint:
    if not Path(source).exists() and source.count("/") != 1:
        models.preset(source)  # raises ValueError with similar names
    try:
        return checkpoints.load(source)
    except checkpoints.CheckpointError as error:
        if Path(source).exists():
            raise
        near = models.did_you_mean(source)
        raise ValueError(f"'{source}' is neither an architecture nor a checkpoint: {error}{near}") from None


def _random(name: str) -> checkpoints.Checkpoint:
    """Creates a model with random noise added to its initial weights, so that no parameter is constant.

    Uses exact GELU and an epsilon of 1e-6, which every library supports.
    """
    config = models.preset(name)
    common = {"activation": "gelu", "norm_eps": 1e-6}
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{key: value for key, value in common.items() if key in known})
    torch.manual_seed(0)
    model = models.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        if isinstance(model.head, torch.nn.Linear):
            torch.nn.init.normal_(model.head.weight, std=model.head.in_features**-0.5)
    rows, columns = config.image_size
    labels = default_labels(config.num_classes)
    return checkpoints.Checkpoint(model=model, processor=Processor.squash((rows, columns)), labels=labels)


def _shape(model: models.Backbone) -> dict[str, int]:
    config = model.config
    rows, columns = config.image_size
    patch = getattr(config, "patch_size", (16, 16))
    return {
        "width": int(model.width),
        "mlp_width": int(getattr(config, "mlp_width", 4 * model.width)),
        "tokens": rows // patch[0] * (columns // patch[1]) + 1,
        "flops": flops(model),
    }
