"""The `vitkit finetune` command."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def finetune(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    data: str,
    out: Path,
    val: str | None = None,
    held_out: float = 0.2,
    image_size: int | None = None,
    channels: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    lr: Annotated[float | None, arg(aliases=("--rate",))] = None,
    batch_size: int | None = None,
    patience: int | None = None,
    mode: Literal["full", "head", "lora"] = "full",
    seed: int = 0,
    tune_threshold: bool = False,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
) -> None:
    """Fine-tune a checkpoint on your own classes, labels or numbers.

    Adds a new head for the classes of the data, for independent labels if images have several, or for numbers
    (csv:photos.csv#target=age), trains, saves the best model in OUT/best (`vitkit classify OUT/best photos/`) and
    writes OUT/report.html with the model's mistakes. The same command resumes a stopped run, and continues a finished
    run with more steps or epochs.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        data: Training data, such as folder:photos/. The folder contains one subfolder per class, or the folders train/
            and val/ with one subfolder per class in each.
        out: Output folder of the training run.
        val: Validation data. If not set: the val split of --data, or a held-out fraction of the training images.
        held_out: Fraction of the training images to hold out for validation if the data has no val split.
        image_size: Input size in pixels, a multiple of the patch size. If not set: the image size of the model.
        channels: Number of channels of the images. An RGB model is adapted to this number. If not set: the
            number of channels of the model.
        steps: Number of training steps. If not set: 500, 10,000 or 20,000, depending on the number of training images.
        epochs: Number of epochs, instead of --steps.
        lr: Peak learning rate. If not set, it depends on the number of training images.
        batch_size: Number of images per batch. If not set, it depends on the number of training images.
        patience: Stop after this number of evaluations without an improvement in the metric. A full run has 10
            evaluations. If not set: train for all steps.
        mode: What to train: the full model, the head only, or LoRA and the head.
        seed: Random seed for shuffling and augmentation.
        tune_threshold: For multi-label models: save, for each label, the decision threshold with the highest F1 score
            on the validation images.
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000.
        set: Override settings of the run config as NAME=VALUE, such as optimizer.lr=1e-3 ema=0.999.
    """
    from vitkit import config
    from vitkit.cli._outcomes import data_limits, report_unreadable, settings
    from vitkit.training import Result, events, train
    from vitkit.training.finetune import finetune as plan

    run = plan(
        model,
        data,
        val=val,
        held_out=held_out,
        image_size=image_size,
        channels=channels,
        steps=steps,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        patience=patience,
        mode=mode,
        seed=seed,
        tune_threshold=tune_threshold,
    )
    run = config.override(run, data_limits(max_pixels, max_bytes) | settings(set))
    result: Result = train(run, out, console=events.console(), keep_memory=True)
    if result.main:
        note = f" ({result.note})" if result.note else ""
        metric = f"{run.metric} {result.score:.4f} at step {result.step}{note}"
        report_unreadable(result.unreadable, out / "report.html")
        print(f"{out / 'best'}: {metric}; see {out / 'report.html'}")
