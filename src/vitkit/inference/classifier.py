"""`Classifier`, a model with its processor and labels, and `load`, which loads any checkpoint as a `Classifier`."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Unpack, get_args
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.checkpoints.load import UNTRAINED
from vitkit.checkpoints.meaning import is_untrained
from vitkit.checkpoints.preprocessing import resized
from vitkit.config import AnyConfig
from vitkit.data.processor import ImageInput, Processor, named
from vitkit.inference.expand import expand
from vitkit.inference.predictor import Options, Outcome, Prediction, Predictor, check_threshold, top_predictions
from vitkit.inference.runtimes._exported import is_export, load_export
from vitkit.layers import Blocks, Features, TapOptions
from vitkit.models import Backbone

# What happens to an image that cannot be read.
Errors = Literal["raise", "skip"]
# What a predictor depends on, except the model, whose changes it detects: processor and options.
Key = tuple[Processor, tuple[tuple[str, object], ...]]

# The last model and predictor of each classifier, so that weights are not prepared again in every call. Not an
# attribute, which would be copied and pickled with the module.
_LAST: "WeakKeyDictionary[Classifier, tuple[Backbone, Key | None, Predictor]]" = WeakKeyDictionary()


class UntrainedHeadWarning(UserWarning):
    """Warning that a model classifies images with an untrained head, such as a newly initialized head."""


class Classifier(nn.Module):
    """Image classifier: a model with its processor and labels.

    `forward` maps normalized images (b, channels, height, width) to logits (b, classes). Raises ValueError if the
    number of labels is not the number of classes.
    """

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        labels: tuple[str, ...],
        origin: checkpoints.Origin | None = None,
    ):
        super().__init__()
        classes = model.config.num_classes
        if classes != len(labels):
            raise ValueError(f"the model has {classes} classes, but {len(labels)} labels were given")
        self.model = model
        self.processor = processor
        self.labels = labels
        self.origin = origin
        self.training = model.training

    @property
    def config(self) -> AnyConfig:
        """The config of the model."""
        return self.model.config

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Returns the logits of normalized images."""
        return self.model(images)

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the tokens of normalized images after the final norm, and the outputs of `blocks` as `Features.taps`.

        See `Backbone.features` for `blocks`, and `TapOptions` for `as_maps`, `norm` and `intermediates_only`.
        """
        return (
            self.model.features(images, blocks, **options)
            if blocks is not None or options
            else self.model.features(images)
        )

    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        top: int = 5,
        threshold: float | None = None,
        errors: Errors = "raise",
        **options: Unpack[Options],
    ) -> Iterator[tuple[ImageInput, list[Prediction]]]:
        """Yields each image with its predictions: the `top` classes, best first, or the values of a regression.

        `images` is one image or several: paths, folders, globs, bytes, PIL, NumPy or torch images. For independent
        labels, `threshold` returns only labels with at least this score. `options` are those of `Predictor`. An
        unreadable image raises an `ImageError` that names it; with errors="skip" it is left out with a warning, and the
        others are still classified (`Predictor.logits` yields errors as outcomes). Warns with `UntrainedHeadWarning` if
        the head gives every image the same scores. Raises ValueError for a model without classes.
        """
        if not self.labels:
            raise ValueError("this model has no classes; use `embed`, or add a head by fine-tuning")
        task = self.config.task
        if threshold is not None:
            check_threshold(task, len(self.labels), threshold)
        predictor = self.predictor(**options)
        if is_untrained(self.model):
            warnings.warn(UNTRAINED, UntrainedHeadWarning, stacklevel=2)
        for image, logits in _outputs(predictor.logits(_images(images)), errors):
            yield image, top_predictions(logits, self.labels, top, task=task, threshold=threshold)

    def embed(
        self, images: ImageInput | Iterable[ImageInput], *, errors: Errors = "raise", **options: Unpack[Options]
    ) -> Iterator[tuple[ImageInput, np.ndarray]]:
        """Yields each image with its representation, a float32 vector of shape (d,)."""
        return _outputs(self.predictor(**options).embeddings(_images(images)), errors)

    def predictor(self, **options: Unpack[Options]) -> Predictor:
        """Returns a `Predictor` with these options. It is cached until the options, processor or model are replaced."""
        key = None if options.get("calibration") else (self.processor, tuple(sorted(options.items())))
        last = _LAST.get(self)
        if last is None or key is None or last[0] is not self.model or last[1] != key:
            last = (self.model, key, Predictor(self.model, self.processor, **options))
            _LAST[self] = last
        return last[2]

    def save(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Saves the classifier as a checkpoint. `options` are passed to `checkpoints.save`."""
        checkpoints.save(self.checkpoint(), folder, **options)

    def checkpoint(self) -> checkpoints.Checkpoint:
        """Returns the model, processor, labels and origin as a `Checkpoint`."""
        return checkpoints.Checkpoint(
            model=self.model, processor=self.processor, labels=self.labels, origin=self.origin or checkpoints.Origin()
        )


def load(source: str | os.PathLike[str], **options: Any) -> Classifier:
    """Loads a classifier from a folder, a file or a Hugging Face Hub id.

    `options` are those of `checkpoints.load`. Exported models (`vitkit export`) can be loaded too, without options
    except `image_size` if they have a dynamic size.
    """
    if is_export(Path(source).expanduser()):
        model, processor, labels = load_export(Path(source).expanduser())
        fixed = {
            name: value for name, value in options.items() if name != "image_size" or not model.export.dynamic_size
        }
        if changed := [name for name, value in fixed.items() if value]:
            raise ValueError(
                f"{source} is an exported model, whose {' and '.join(changed)} cannot be changed; export "
                "the checkpoint again"
            )
        if size := options.get("image_size"):
            rows, columns = (size, size) if isinstance(size, int) else size
            model.resize((rows, columns))
            processor = resized(processor, (rows, columns))
        return Classifier(model, processor, labels, checkpoints.Origin(source=str(source), format=model.export.target))
    loaded = checkpoints.load(source, **options)
    return Classifier(loaded.model.eval(), loaded.processor, loaded.labels, loaded.origin)


def _images(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    """Yields every image of an input that may be one image or several. Folders and globs are expanded."""
    many: Iterable[ImageInput] = images if isinstance(images, list | tuple | Iterator) else [images]
    for image in many:
        if isinstance(image, str | Path):
            # The name of a file is yielded unchanged, a Path as a Path.
            yield from (image if name == str(image) else name for name in expand([str(image)]))
        else:
            yield image


def _outputs(outcomes: Iterable[Outcome], errors: Errors) -> Iterator[tuple[ImageInput, np.ndarray]]:
    if errors not in get_args(Errors):
        raise ValueError(f"errors is '{errors}'; it must be one of {', '.join(get_args(Errors))}")
    return _readable(outcomes, errors)


def _readable(outcomes: Iterable[Outcome], errors: Errors) -> Iterator[tuple[ImageInput, np.ndarray]]:
    for index, outcome in enumerate(outcomes):
        if outcome.error is None:
            assert outcome.output is not None
            yield outcome.source, outcome.output
            continue
        error = named(outcome.error, outcome.source, index)
        if errors == "raise":
            raise error
        warnings.warn(f"skipped {error}", RuntimeWarning, stacklevel=2)
