"""JPEG files for measurements where no folder is given: smooth noise, of the size of ImageNet's photos."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from vitkit import checkpoints, models
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.evaluate.flops import flops

SIZES = ((500, 375), (375, 500), (500, 333), (640, 480))


def write_jpegs(folder: Path, count: int) -> tuple[str, ...]:
    """Writes `count` JPEG files, quality 90, about as many bytes each as a photo, and returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = []
    for number in range(count):
        columns, rows = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(generator.integers(0, 256, (rows // 8, columns // 8, 3), np.uint8))
        fine = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), np.uint8))
        smooth = coarse.resize((columns, rows), Image.Resampling.BICUBIC)
        picture = Image.blend(smooth, fine.filter(ImageFilter.GaussianBlur(1)), 0.25)
        name = folder / f"photo{number:04}.jpg"
        picture.save(name, quality=90)
        names.append(str(name))
    return tuple(names)


LAYOUTS = ("vitkit", "huggingface", "timm")


def write_weights(source: str, folder: Path) -> tuple[Any, dict[str, int], dict[str, str]]:
    """Writes a model into `folder/<layout>` for every layout that can express it.

    `source` is an architecture by its name (`vit-b/16`), which gets random weights, or a checkpoint. Returns the config
    of the model, its shape as `Job` has it, and what each missing layout says against it. Raises ValueError with the
    nearest names for a source that is neither.
    """
    checkpoint = _random(source) if source in models.presets() else _loaded(source)
    obstacles = {}
    for layout in LAYOUTS:
        try:
            checkpoints.save(checkpoint, folder / layout, to=layout, overwrite=True)
        except checkpoints.CheckpointError as error:
            obstacles[layout] = str(error)
    return checkpoint.model.config, _shape(checkpoint.model), obstacles


def _loaded(source: str) -> checkpoints.Checkpoint:
    if not Path(source).exists() and source.count("/") != 1:
        models.preset(source)  # raises, with the names that are near
    try:
        return checkpoints.load(source)
    except checkpoints.CheckpointError as error:
        if Path(source).exists():
            raise
        near = _near(source)
        raise ValueError(f"'{source}' is no architecture{near} And as a checkpoint: {error}") from None


def _near(source: str) -> str:
    from vitkit.config import nearest

    return nearest(source, models.presets()).rstrip("?") + "?"


def _random(name: str) -> checkpoints.Checkpoint:
    """Fresh weights with noise on every one, so that no two are alike and logits are of order 1.

    Exact GELU and an epsilon of 1e-6, which every library can express; they cost what the others cost.
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
