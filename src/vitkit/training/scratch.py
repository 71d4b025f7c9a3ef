"""Creates a `Run` that trains an architecture from random initial weights, with defaults for any dataset."""

from dataclasses import replace

from vitkit import models
from vitkit.data import train_and_val
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.task import SINGLE_LABEL
from vitkit.training.finetune import CROP_AREA, default_precision, defaults, loss_and_metric
from vitkit.training.optim import Optimizer
from vitkit.training.run import Data, Run
from vitkit.training.schedule import Schedule
from vitkit.training.targets import inferred_task

# Length in epochs, and learning rate for a batch size of 1024. It scales with the square root of the batch size.
EPOCHS = 100
LEARNING_RATE = 1e-3


def scratch(model: str, data: str, *, val: str | None = None, held_out: float = 0.2, needs_labels: bool = True) -> Run:
    """Returns a run that trains an architecture (`vit-s/16`) from random initial weights.

    Uses AdamW with weight decay 0.05, a cosine schedule over 100 epochs with 5 epochs of warm-up, Inception crops and
    flips. On small data sets, `finetune` is better. If `needs_labels` is False, the images may have no labels, for an
    objective that uses none. Raises ValueError for an unknown architecture.
    """
    config = models.preset(model)
    source, _ = train_and_val(data, val=val, held_out=held_out, seed=0, needs_labels=needs_labels)
    batch_size = defaults(len(source)).batch_size
    task = inferred_task(source) if source.classes else SINGLE_LABEL
    size = tuple(config.image_size)
    return Run(
        name=f"{model} on {data}",
        model=replace(config, num_classes=len(source.classes), task=task),
        data=Data(source=data, val=val, held_out=held_out),
        processor=Processor.crop(size, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD).with_channels(config.channels),
        augment=Augment(crop=Crop(kind="torchvision", area=CROP_AREA), flip=True),
        optimizer=Optimizer(lr=round(LEARNING_RATE * (batch_size / 1024) ** 0.5, 6), weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=max(1, EPOCHS * len(source) // batch_size // 20)),
        batch_size=batch_size,
        epochs=EPOCHS,
        precision=default_precision(),
        **loss_and_metric(task),
    )
