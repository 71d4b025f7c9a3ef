"""Groups of options that several commands share. A command takes a group as one parameter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training run.

    Args:
        data: Training data, such as photos/. The folder contains one subfolder per class, or the folders train/ and
            val/ with one subfolder per class in each. Files (.csv, .jsonl, .parquet, .tar) and named sources such as
            hub:cifar10 are accepted, too.
        val: Validation data. If not set: the val split of --data, or a held-out fraction of the training images.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        held_out: Fraction of the training images to hold out if the data has no val split. If not set: 0.2.
        out: Output folder of the training run. If not set: a folder in runs/ with the name of the run.
        resume: Folder of a run to resume or to extend. Everything else comes from this folder.
        objective: Objective of the training, such as supervised, mae, dino or distillation.
        image_size: Input size in pixels, a multiple of the patch size. If not set: the image size of the model.
        channels: Number of channels of the images. An RGB model is adapted to this number.
        steps: Number of training steps. With --resume, the steps of the whole run.
        epochs: Number of epochs, instead of --steps.
        minutes: Number of minutes of wall time, instead of --steps. Evaluations are included.
        lr: Peak learning rate. If not set: the learning rate of the recipe, or one that depends on the data.
        batch_size: Number of images per batch. If not set: that of the recipe, or one that depends on the data.
        patience: Stop after this number of evaluations without an improvement in the metric.
        mode: What to train: the full model, the head only, or LoRA and the head.
        seed: Random seed for initial weights, shuffling and augmentation.
        tune_threshold: For multi-label models: save, for each label, the decision threshold with the highest F1 score
            on the validation images.
        device: Device to train on: auto, cpu, cuda, cuda:1 or mps. If not set: auto, or the value of the recipe.
        parallel: Parallel training under torchrun: ddp (model replicas) or fsdp (sharded parameters).
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000.
        set: Override settings of the run config as NAME=VALUE, such as optimizer.weight_decay=0.1 ema=0.999.
    """

    data: str | None = None
    val: str | None = None
    fix: Path | None = None
    held_out: float | None = None
    out: Path | None = None
    resume: Annotated[Path | None, arg(metavar="RUN")] = None
    objective: str | None = None
    image_size: int | None = None
    channels: int | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    lr: Annotated[float | None, arg(aliases=("--rate",))] = None
    batch_size: int | None = None
    patience: int | None = None
    mode: Literal["full", "head", "lora"] | None = None
    seed: int | None = None
    tune_threshold: bool = False
    device: str | None = None
    parallel: Literal["none", "ddp", "fsdp"] | None = None
    max_pixels: int | None = None
    max_bytes: int | None = None
    set: tuple[str, ...] = ()
