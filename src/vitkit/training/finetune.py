"""Creates a `Run` that fine-tunes a checkpoint, with defaults that depend on the size of the dataset."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vitkit import checkpoints
from vitkit.config import AnyConfig
from vitkit.data import EncodedSource, Source, train_and_val
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.fixes import Fix, fixed_splits
from vitkit.data.processor import Processor
from vitkit.images import ImageError, count_bands
from vitkit.inference.engine import capabilities
from vitkit.objectives import supervised
from vitkit.task import Task
from vitkit.training.optim import Optimizer
from vitkit.training.run import Data, Run, check_length
from vitkit.training.schedule import Schedule
from vitkit.training.targets import inferred_task
from vitkit.training.tuning import Tuning

# Steps, warm-up and learning rate for fewer training images than the first number (see `defaults`).
SIZES = ((20_000, 500, 100, 0.01), (500_000, 10_000, 500, 0.01), (None, 20_000, 500, 0.03))
# Factor of the learning rate by mode.
LR_SCALES = {"full": 1.0, "head": 10.0, "lora": 1.0}
LORA_RANK = 8
# Minimum and maximum area of a crop; the 5 % of the original code can miss the object.
CROP_AREA = (0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Default hyperparameters of fine-tuning for a given number of training images."""

    steps: int
    warmup: int
    lr: float
    batch_size: int


def defaults(num_images: int) -> Defaults:
    """Returns the default steps, warm-up, learning rate and batch size for a number of training images.

    ViT paper, Table 4: 500 steps for Pets and Flowers, 10,000 for CIFAR, 20,000 for ImageNet, batches of 512. The
    limits between them, 20 and 500 thousand images, are those of BiT's rule. Warm-up and learning rates are AugReg's
    (Steiner et al. 2022, table of fine-tuning: 100 steps for 500, 500 for more; the middle of the sweeps). The batch
    size is 512, for small data sets at most 1/32 of the images as a power of two, and at least 16: larger fractions of
    the data in a batch cost more computation without better gradients.
    """
    steps, warmup, lr = next(rest for limit, *rest in SIZES if limit is None or num_images < limit)
    batch_size = max(16, min(512, 1 << max(0, (num_images // 32).bit_length() - 1)))
    return Defaults(steps=int(steps), warmup=int(warmup), lr=float(lr), batch_size=min(batch_size, num_images))


def finetune(
    model: str,
    data: str,
    *,
    val: str | None = None,
    held_out: float = 0.2,
    image_size: int | None = None,
    channels: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    mode: Literal["full", "head", "lora"] = "full",
    seed: int = 0,
    tune_threshold: bool = False,
    fixes: tuple[Fix, ...] = (),
) -> Run:
    """Returns a run that fine-tunes a checkpoint. Start it with `train(finetune(model, data), folder)`.

    SGD with momentum 0.9, cosine schedule, no weight decay and gradients clipped to norm 1, as in the ViT paper; no
    dropout, as in AugReg; Inception crops and flips, as in the original code. The processor is the checkpoint's.
    Precision is bfloat16 if the hardware supports it. The task is inferred from the data. For several labels per image,
    the loss is sigmoid cross-entropy and the metric is mean average precision. For numeric targets, the loss is the
    mean squared error of standardized targets and the metric is R2. With `tune_threshold`, the saved model contains,
    for each label, the decision threshold with the highest F1 score on the validation images.

    The length is given as `steps`, `epochs`, or `minutes` of wall time, which include evaluations. The model is
    evaluated up to ten times, and fewer times if the evaluations would take more than a tenth of the time
    (`evaluation_share`). Hyper-parameters that are None depend on the number of images (`defaults`). With `patience`,
    the run stops after that many evaluations without an improvement in the metric. `image_size` is in pixels.
    `channels` is the number of input channels to which an RGB model is adapted. `mode` is what to train: the full
    model, the head only, or LoRA and the head. `fixes` are corrections of the data (`vitkit.data.fixes.read_fixes`).
    Raises ValueError if the checkpoint, the data and `image_size` cannot be combined.
    """
    if steps is not None or epochs is not None or minutes is not None:
        check_length(steps, epochs, minutes)
    training, validation = train_and_val(data, val=val, held_out=held_out, seed=0)
    source, _ = fixed_splits(training, validation, fixes)
    default, checkpoint = defaults(len(source)), absolute(model)
    config, processor = _model_and_processor(checkpoint, len(source.classes), image_size, channels)
    if channels is None:
        check_bands(source, config.channels)
    task = inferred_task(source)
    size = default.batch_size if batch_size is None else batch_size
    if steps is None and epochs is None and minutes is None:
        steps = default.steps
    # The plan of a run with a length in minutes shortens the warm-up if needed.
    total = steps or (max(1, round(epochs * len(source) / max(1, size))) if epochs else 5 * default.warmup)
    return Run(
        name=f"{Path(model).stem or 'model'} on {data}",
        model=replace(config, task=task),
        data=Data(source=data, val=val, held_out=held_out, fixes=fixes),
        processor=processor,
        augment=Augment(crop=Crop(kind="torchvision", area=CROP_AREA), flip=True),
        optimizer=Optimizer(name="sgd", lr=default.lr * LR_SCALES[mode] if lr is None else lr, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=min(default.warmup, total // 5)),
        batch_size=size,
        steps=steps,
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        init_from=checkpoint,
        precision=default_precision(),
        tuning=Tuning(head_only=mode == "head", lora_rank=LORA_RANK if mode == "lora" else 0),
        tune_threshold=tune_threshold,
        patience=patience,
        **loss_and_metric(task),
    )


def loss_and_metric(task: Task) -> dict[str, Any]:
    """Returns the objective, evaluators and metric of a run that trains a task."""
    if task.regression:
        loss = supervised.Config(loss="mse")
        return {"objective": loss, "evaluators": ("regression",), "metric": "regression.r2"}
    if task.problem_type == "single_label_classification":
        return {"objective": supervised.Config()}
    return {
        "objective": supervised.Config(loss="sigmoid"),
        "evaluators": ("average_precision", "f1"),
        "metric": "average_precision.mean",
    }


def default_precision() -> Literal["float32", "bfloat16"]:
    """Returns bfloat16 if the hardware has fast bfloat16 matrix products, and float32 otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if capabilities(device).bfloat16 else "float32"


def absolute(name: str) -> str:
    """Returns the absolute path of a checkpoint, so that a run can resume in any folder. Hub IDs are unchanged."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _model_and_processor(
    model: str, num_classes: int, image_size: int | None, channels: int | None
) -> tuple[AnyConfig, Processor]:
    loaded = checkpoints.load(model, num_classes=num_classes, channels=channels)
    if image_size is not None:
        check_image_size(loaded.model.config, image_size)
        loaded = checkpoints.load(model, num_classes=num_classes, image_size=image_size, channels=channels)
    config, processor = loaded.model.config, loaded.processor
    if tuple(processor.size) != tuple(config.image_size):
        raise ValueError(
            f"the model '{model}' has image_size {tuple(config.image_size)}, but its processor has size "
            f"{processor.size}; "
            "set --image-size"
        )
    no_dropout = {name: 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth") if hasattr(config, name)}
    return replace(config, **no_dropout), processor


def check_bands(source: Source, channels: int) -> None:
    """Raises ValueError if the first image is a TIFF file with bands that an RGB model would ignore."""
    inner: Any = source
    while not isinstance(inner, EncodedSource) and hasattr(inner, "source"):
        inner = inner.source
    if channels != 3 or not isinstance(inner, EncodedSource):
        return
    file, key = inner.encoded(0)
    try:
        bands = count_bands(file)
    except ImageError:
        return  # it is reported when it is read
    if bands is not None:
        raise ValueError(
            f"the image {key} has {bands} bands, but the model reads RGB; use --channels {bands}, or --channels 3 to "
            "ignore the others"
        )


def check_image_size(config: AnyConfig, image_size: int) -> None:
    """Raises ValueError if `image_size` is not a multiple of the model's patch size."""
    for patch in getattr(config, "patch_size", None) or ():
        if image_size < patch or image_size % patch:
            near = max(patch, round(image_size / patch) * patch)
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch}; use {near}")
