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

    `vitkit finetune MODEL --data photos/` replaces the head and trains the model. The new head is for the classes of
    the data, for independent labels if images have several labels, or for numeric targets (csv:photos.csv#target=age).
    The best model is saved in OUT/best (`vitkit classify OUT/best photos/`). OUT/report.html shows the mistakes of the
    model, and OUT/predictions.csv contains its predictions.

    The same command resumes a stopped run, and extends a finished run if --steps, --epochs or --minutes is larger.
    `vitkit finetune --resume RUN` does the same with only the run folder. The defaults of options that are not set
    depend on the number of training images.

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
