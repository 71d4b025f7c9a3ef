"""`vitkit.finetune`: fine-tunes a checkpoint on your own classes, labels or numbers."""

from pathlib import Path

from vitkit.api._runs import (
    Mode,
    Name,
    Parallel,
    Settings,
    TrainedRun,
    chosen,
    folder_name,
    overridden,
    source_name,
    start,
)


def finetune(
    model: Name,
    data: Name,
    *,
    out: Name | None = None,
    val: Name | None = None,
    fix: Name | None = None,
    held_out: float | None = None,
    objective: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    mode: Mode = "full",
    seed: int = 0,
    tune_threshold: bool = False,
    device: str | None = None,
    parallel: Parallel | None = None,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    settings: Settings | None = None,
    progress: bool = False,
) -> TrainedRun:
    """Fine-tunes a checkpoint on your own classes, labels or numbers, and returns the finished run.

    The model gets a new head for the classes of the data, for independent labels if images have several labels, or for
    numeric targets (`photos.csv#target=age`). The run folder contains the best model in `best/` and a report with its
    mistakes in `report.html`. The same call resumes a stopped run. `vitkit.resume(FOLDER)` resumes a run from its
    folder, or extends a finished run.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        data: Training data: a folder with one folder per class, a .csv, .jsonl, .parquet or .tar file, or the name of a
            data source such as `hub:cifar10`.
        out: Run folder. If None, a folder in `runs/` that is named after the model and the data.
        val: Validation data. If None: the validation split of `data`, or a held-out fraction.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        held_out: Fraction of the training images to hold out if the data has no validation split. If None: 0.2.
        objective: Name of an objective. If None, the objective is chosen by the labels of the data.
        image_size: Input size in pixels, a multiple of the patch size. If None: the image size of the model.
        channels: Number of channels of the images. An RGB model is adapted to this number.
        steps: Length of the run in training steps. If no length is given: 500, 10,000 or 20,000 steps, depending on the
            number of training images.
        epochs: Length of the run in epochs.
        minutes: Length of the run in minutes of wall time, including evaluations.
        lr: Peak learning rate. If None, it depends on the number of training images.
        batch_size: Number of images per batch. If None, it depends on the number of training images.
        patience: Stop after this number of evaluations without an improvement in the metric.
        mode: What to train: the full model, the head, or LoRA and the head.
        seed: Random seed for shuffling and augmentation.
        tune_threshold: For multi-label models: save, for each label, the decision threshold with the highest F1 score
            on the validation images.
        device: Device to train on, such as `cuda:1`.
        parallel: Parallel training under torchrun: `ddp` or `fsdp`.
        max_pixels: Largest accepted image, in pixels (width x height).
        max_bytes: Largest accepted image file, in bytes.
        settings: Other settings of the run config by name, such as `{"optimizer.weight_decay": 0.1, "ema": 0.999}`.
        progress: Show the plan and the progress of the run on standard error.

    Raises:
        ValueError: The checkpoint, the data or a setting is invalid, or they cannot be combined. No file is written in
            this case.

    Example:
        >>> run = vitkit.finetune("facebook/deit-tiny-patch16-224", "flowers/", minutes=10, progress=True)
        >>> run
        TrainedRun(top1.accuracy 93.20% at step 450)
          model:  runs/deit-tiny-patch16-224-flowers/best
          report: runs/deit-tiny-patch16-224-flowers/report.html
        >>> run.metrics["confusion.worst_recall"]
        >>> run.model().classify("rose.jpg")
    """
    from vitkit.data.fixes import read_fixes
    from vitkit.training.finetune import finetune as plan

    rest = {"device": device, "parallel": parallel, "max_pixels": max_pixels, "max_bytes": max_bytes}
    planned = {"steps": steps, "epochs": epochs, "minutes": minutes, "lr": lr, "batch_size": batch_size}
    # Raise errors for settings that are given twice before any image is read.
    chosen(settings, objective=objective, patience=patience, val=val, fix=fix, held_out=held_out, **planned, **rest)
    run = plan(
        str(model),
        str(source_name(data)),
        val=source_name(val),
        held_out=0.2 if held_out is None else held_out,
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
        fixes=() if fix is None else read_fixes(fix),
    )
    run = overridden(run, chosen(settings, objective=objective, **rest))
    return start(run, out or Path("runs") / folder_name(run.name), progress=progress)
