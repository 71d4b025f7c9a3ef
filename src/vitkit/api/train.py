"""`vitkit.train`: trains a model by a recipe, or an architecture on any data."""

from typing import TYPE_CHECKING

from vitkit.api._runs import Mode, Name, Parallel, Settings, TrainedRun, recipe_run, start

if TYPE_CHECKING:
    from vitkit.training import Run


def train(
    recipe: "str | Run | None" = None,
    *,
    out: Name | None = None,
    data: Name | None = None,
    val: Name | None = None,
    fix: Name | None = None,
    held_out: float | None = None,
    model: str | None = None,
    objective: str | None = None,
    init_from: Name | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    mode: Mode | None = None,
    seed: int | None = None,
    tune_threshold: bool | None = None,
    device: str | None = None,
    parallel: Parallel | None = None,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    settings: Settings | None = None,
    progress: bool = False,
) -> TrainedRun:
    """Trains a model by a recipe, or an architecture on your own data, and returns the finished run.

    The run folder contains the saved model in `best/`, the report `report.html`, the log and training checkpoints. The
    same call resumes a stopped run. `vitkit.resume(FOLDER)` resumes a run from its folder. Progress is logged to the
    logger `vitkit`.

    Args:
        recipe: Name of a recipe (`vitkit.list_recipes`), or the config of a run. If None, `model` and `data` are
            trained from random initial weights with AdamW.
        out: Run folder. If None, a folder in `runs/` that is named after the recipe, or after the model and the data.
        data: Training data: a folder with one folder per class, a .csv, .jsonl, .parquet or .tar file, or the name of a
            data source such as `hub:cifar10`. If None: the data of the recipe.
        val: Validation data. If None: the validation split of `data`, or a held-out fraction.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        held_out: Fraction of the training images to hold out if the data has no validation split.
        model: Name of an architecture (`vitkit.list_models`), or its name in timm or transformers.
        objective: Name of an objective, such as `supervised`, `mae`, `dino` or `distillation`.
        init_from: Checkpoint with the initial weights.
        image_size: Input size in pixels.
        channels: Number of channels of the images.
        steps: Length of the run in training steps.
        epochs: Length of the run in epochs.
        minutes: Length of the run in minutes of wall time, including evaluations.
        lr: Peak learning rate.
        batch_size: Number of images per batch.
        patience: Stop after this number of evaluations without an improvement in the metric.
        mode: What to train: the full model, the head, or LoRA and the head.
        seed: Random seed for initial weights, shuffling and augmentation.
        tune_threshold: For multi-label models: save, for each label, the decision threshold with the highest F1 score
            on the validation images.
        device: Device to train on, such as `cuda:1`.
        parallel: Parallel training under torchrun: `ddp` or `fsdp`.
        max_pixels: Largest accepted image, in pixels (width x height).
        max_bytes: Largest accepted image file, in bytes.
        settings: Other settings of the run config by name, such as `{"optimizer.weight_decay": 0.1, "ema": 0.999}`.
        progress: Show the plan and the progress of the run on standard error.

    Raises:
        ValueError: An argument or setting is invalid, or cannot be combined with the data. No file is written in this
            case.

    Example:
        >>> run = vitkit.train("digits.tiny", steps=200, out="runs/digits")
        >>> run.metrics["top1.accuracy"]
        0.95...
        >>> run = vitkit.train(model="vit-ti/16", data="photos/", minutes=10)
        >>> run.model().classify("cat.jpg")
    """
    run, folder = recipe_run(
        recipe,
        settings,
        out=out,
        data=data,
        val=val,
        fix=fix,
        held_out=held_out,
        model=model,
        objective=objective,
        init_from=init_from,
        image_size=image_size,
        channels=channels,
        steps=steps,
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        batch_size=batch_size,
        patience=patience,
        mode=mode,
        seed=seed,
        tune_threshold=tune_threshold,
        device=device,
        parallel=parallel,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
    )
    return start(run, folder, progress=progress)
