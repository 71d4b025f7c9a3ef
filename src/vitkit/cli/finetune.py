"""The `vitkit finetune` command."""

from typing import Annotated

from tyro.conf import Positional, arg

from vitkit.cli._options import TrainingOptions


def finetune(
    model: Annotated[Positional[str], arg(metavar="MODEL")] = "",
    *,
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 - frozen
) -> None:
    """Fine-tune a checkpoint on your own classes, labels or numbers.

    `vitkit finetune MODEL --data photos/` adds a new head for the classes of the data, for independent labels if images
    have several, or for numbers (csv:photos.csv#target=age), trains, saves the best model in OUT/best
    (`vitkit classify OUT/best photos/`) and writes OUT/report.html with the model's mistakes
    and OUT/predictions.csv.

    The same command resumes a stopped run, and continues a finished run with more steps or epochs. So does
    `vitkit finetune --resume RUN`, which needs only the run folder. Options that are not set depend on the number of
    training images.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
    """
    from vitkit.api.finetune import finetune as start
    from vitkit.cli._outcomes import finished, resumed, training_arguments

    if training.resume is not None:
        finished(resumed(training, {"MODEL": model}))
        return
    if not model or training.data is None:
        missing = [name for name, value in (("MODEL", model), ("--data SOURCE", training.data)) if not value]
        raise ValueError(
            f"`vitkit finetune` needs {' and '.join(missing)}, as in vitkit finetune MODEL --data photos/, or --resume "
            "with a run folder"
        )
    finished(start(model, **training_arguments(training), progress=True))
