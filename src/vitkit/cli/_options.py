"""Groups of options that several commands share. A command takes a group as one parameter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from tyro.conf import arg

from vitkit.config import once
from vitkit.text import printable

if TYPE_CHECKING:
    from vitkit.images import Limits


def settings(words: Sequence[str]) -> dict[str, str]:
    """Parses settings of the form `NAME=VALUE`.

    Raises ValueError if the form differs or a name is given twice.
    """
    pairs = [word.partition("=") for word in words]
    for (name, equals, _), word in zip(pairs, words, strict=True):
        if not name or not equals:
            raise ValueError(f"--set takes NAME=VALUE, such as num_heads=12, not '{printable(word)}'")
    return once(((name, value) for name, _, value in pairs), "--set ")


class LoadArguments(TypedDict):
    """Arguments of `vitkit.load` and of functions that load a model."""

    image_size: int | None
    revision: str | None
    config: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Options for loading a model.

    Args:
        image_size: Input size in pixels. Position embeddings are resized. If not set: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hugging Face Hub.
        set: Set fields of the model config that are missing from the checkpoint, as NAME=VALUE, such as num_heads=12.
    """

    image_size: int | None = None
    revision: str | None = None
    set: tuple[str, ...] = ()

    def arguments(self) -> "LoadArguments":
        """Returns the options as arguments of `vitkit.load`."""
        return {"image_size": self.image_size, "revision": self.revision, "config": settings(self.set)}


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options for running a model.

    Args:
        precision: Numerical precision. With auto, the fastest precision with outputs close to those of float32 is used.
            An int8 model is calibrated on the first images. float8 requires a GPU.
        merge_tokens: Number of tokens to merge in each block (ToMe). This is faster but changes the outputs.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If not set: 8 on a CPU, 64 on a GPU.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto"
    merge_tokens: int = 0
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class StreamOptions(InferenceOptions):
    """Options for running a model on a stream of images.

    Args:
        resampling: Resize images as in Pillow or PyTorch. With draft, Pillow decodes large JPEG files at reduced size.
        compile: Compile the model with torch.compile, which takes a minute or more.
    """

    resampling: Literal["pillow", "torch", "draft"] = "pillow"
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Limits of image files.

    Args:
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000.
    """

    max_pixels: int | None = None
    max_bytes: int | None = None

    @property
    def limits(self) -> "Limits":
        """The limits of an image. Raises ValueError for values below 1."""
        from vitkit.images import DEFAULT_LIMITS

        given = {"max_pixels": self.max_pixels, "max_bytes": self.max_bytes}
        for name, value in given.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        return replace(DEFAULT_LIMITS, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class FileOptions(ImageOptions):
    """Limits of image files, and whether truncated files are accepted.

    Args:
        allow_truncated: Decode truncated image files instead of reporting an error.
    """

    allow_truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training run.

    Args:
        data: Training data: a folder such as photos/ with one subfolder per class, or with the folders train/ and val/
            that have one subfolder per class; a .csv, .jsonl, .parquet or .tar file; or a named source such as
            hub:cifar10.
        val: Validation data. If not set: the val split of --data, or a held-out fraction of the training images.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        held_out: Fraction of the training images to hold out if the data has no val split. If not set: 0.2.
        out: Output folder of the training run. If not set: a folder in runs/ with the name of the run.
        resume: Folder of a run to resume or to extend. The data, the recipe and all settings are read from this folder.
        objective: Training objective, such as supervised, mae, dino or distillation.
        image_size: Input size in pixels, a multiple of the patch size. If not set: the image size of the model.
        channels: Number of channels of the images. An RGB model is adapted to this number.
        steps: Number of training steps. With --resume, the total number of steps, including the steps that are already
            trained.
        epochs: Length of the run in epochs, instead of --steps.
        minutes: Length of the run in minutes of wall time, including evaluations, instead of --steps.
        lr: Peak learning rate. If not set: the learning rate of the recipe, or a value that depends on the size of the
            data set.
        batch_size: Number of images per batch. If not set: the batch size of the recipe, or a value that depends on the
            size of the data set.
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
