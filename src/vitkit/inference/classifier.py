"""`Classifier`: a network with its processor and labels, and `load`, which makes one of any checkpoint."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.data.processor import Processor
from vitkit.images import SUFFIXES
from vitkit.inference.predictor import Prediction, Predictor, top_predictions
from vitkit.inference.runtimes._exported import exported, is_export
from vitkit.layers import Features
from vitkit.models import Backbone

# The last predictor of each classifier: what it made of the weights is not made again for every call. Not an attribute,
# which would be copied and pickled with the module.
_LAST: "WeakKeyDictionary[Classifier, tuple[Any, Predictor]]" = WeakKeyDictionary()


class Classifier(nn.Module):
    """A model that is ready for photos: `model` the network, `processor` what it wants of an image, `labels` its
    classes.

    Called on a float tensor (b, channels, height, width) of normalised images it gives logits (b, classes).
    Raises ValueError where the number of labels is not the number of classes.
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
            raise ValueError(f"the model has {classes} classes, but there are {len(labels)} labels")
        self.model = model
        self.processor = processor
        self.labels = labels
        self.origin = origin

    @property
    def config(self) -> Any:
        """The config of the network."""
        return self.model.config

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Logits of normalised images."""
        return self.model(images)

    def features(self, images: Float[Tensor, "b c height width"]) -> Features:
        """The tokens of normalised images after the network's final norm."""
        return self.model.features(images)

    def classify(self, images: Any, *, top: int = 5, **options: Any) -> Iterator[tuple[Any, list[Prediction]]]:
        """Each image with its `top` classes, best first, as they come.

        `images` is one image or many: paths, folders, globs, bytes, PIL, numpy or torch images. `options` are those of
        `Predictor`. Raises ValueError for a model without classes, and `ImageError` for an image that cannot be read.
        """
        if not self.labels:
            raise ValueError("this model has no classes: use `embed`, or give it a head by fine-tuning")
        for image, logits in _outputs(self.predictor(**options).logits(_images(images))):
            yield image, top_predictions(logits, self.labels, top)

    def embed(self, images: Any, **options: Any) -> Iterator[tuple[Any, np.ndarray]]:
        """Each image with its representation (d,), float32; arguments and errors as `classify`."""
        return _outputs(self.predictor(**options).embeddings(_images(images)))

    def predictor(self, **options: Any) -> Predictor:
        """A `Predictor` with these options; that of the call before where neither they nor the weights have changed."""
        state = _state(self, options)
        found = _LAST.get(self)
        if found is None or state is None or found[0] != state:
            found = (state, Predictor(self.model, self.processor, **options))
            _LAST[self] = found
        return found[1]

    def save(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Writes a checkpoint folder (weights, config, preprocessing); `options` are those of `checkpoints.save`."""
        checkpoints.save(self.checkpoint(), folder, **options)

    def checkpoint(self) -> checkpoints.Checkpoint:
        """The same four parts as `checkpoints` handles them."""
        return checkpoints.Checkpoint(
            model=self.model, processor=self.processor, labels=self.labels, origin=self.origin or checkpoints.Origin()
        )


def load(source: str | os.PathLike[str], **options: Any) -> Classifier:
    """The classifier of any checkpoint: a folder, a file, or a hub id; `options` are those of `checkpoints.load`.

    The folder of an exported model (`vitkit export`) takes none of them: it is as it was exported.
    """
    if is_export(Path(source).expanduser()):
        if changed := [name for name, value in options.items() if value]:
            raise ValueError(
                f"{source} is an exported model, which {' and '.join(changed)} cannot change: export again"
            )
        model, processor, labels = exported(Path(source).expanduser())
        return Classifier(model, processor, labels, checkpoints.Origin(source=str(source), format=model.export.target))
    loaded = checkpoints.load(source, **options)
    return Classifier(loaded.model.eval(), loaded.processor, loaded.labels, loaded.origin)


def _state(classifier: Classifier, options: dict[str, Any]) -> tuple[Any, ...] | None:
    """What a predictor depends on, told apart by every change of a weight; None where that cannot be known."""
    tensors = [*classifier.model.parameters(), *classifier.model.buffers()]
    if any(tensor.is_inference() for tensor in tensors) or options.get("calibration"):
        return None
    weights = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
    return (classifier.processor, id(classifier.model), tuple(sorted(options.items())), weights)


def _images(images: Any) -> Iterable[Any]:
    """One image or many, as many; names of folders and globs become the files they mean."""
    many: Iterable[Any] = images if isinstance(images, list | tuple | Iterator) else [images]
    for image in many:
        if isinstance(image, str | Path):
            # A name that means itself comes back as it was given, a Path as a Path.
            yield from (image if name == str(image) else name for name in expand([str(image)]))
        else:
            yield image


def _outputs(outcomes: Iterable[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    for outcome in outcomes:
        if outcome.error is not None:
            name = outcome.source if isinstance(outcome.source, str | Path) else "an image"
            raise type(outcome.error)(outcome.error.code, f"{name}: {outcome.error}")
        yield outcome.source, outcome.output


def expand(names: Iterable[str]) -> Iterator[str]:
    """The files meant by `names`, in order: a folder is searched recursively by name, a glob is matched.

    A name that is none of these comes back as it is, so that reading it says what is wrong. Raises ValueError for a
    folder or a glob that holds no image.
    """
    for name in names:
        if os.path.isdir(name):
            yield from _folder(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            yield from _glob(name)
        else:
            yield name


def _folder(name: str) -> Iterator[str]:
    found = False
    for path in sorted(Path(name).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(name).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found = True
            yield str(path)
    if not found:
        raise ValueError(f"the folder '{name}' holds no image files")


def _glob(pattern: str) -> Iterator[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise ValueError(f"no file matches '{pattern}'")
    for match in matches:
        if os.path.isdir(match):
            yield from _folder(match)
        else:
            yield match
