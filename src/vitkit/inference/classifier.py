"""`Classifier`, a model with its processor and labels, and `load`, which loads any checkpoint as a `Classifier`."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, get_args, overload
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.checkpoints.load import UNTRAINED
from vitkit.checkpoints.meaning import is_untrained
from vitkit.checkpoints.preprocessing import resized
from vitkit.config import AnyConfig
from vitkit.data.processor import ImageInput, Processor, each_image, is_path
from vitkit.images import ImageError
from vitkit.inference.engine import is_hooked
from vitkit.inference.expand import expand
from vitkit.inference.predictions import check_labels, check_threshold
from vitkit.inference.predictor import Options, Outcome, Predictor
from vitkit.inference.results import Classification, Classifications, Decoding, Embedding, Embeddings, Result
from vitkit.inference.runtimes._exported import is_export, load_export
from vitkit.layers import Blocks, Features, TapOptions, block_indices
from vitkit.logs import LOGGER
from vitkit.models import Backbone
from vitkit.text import printable

# What happens to an image that cannot be read.
Errors = Literal["raise", "yield", "skip"]
R = TypeVar("R", bound=Result)
# The processor and the options of a predictor. A predictor detects changes of its model itself.
Key = tuple[Processor, tuple[tuple[str, object], ...]]

# Caches the last model and predictor of each classifier, so that weights are not prepared in every call. This is not an
# attribute, because attributes are copied and pickled with the module.
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

    @overload
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        top: int = ...,
        threshold: float | None = ...,
        errors: Errors = ...,
        stream: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Classifications: ...
    @overload
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        top: int = ...,
        threshold: float | None = ...,
        errors: Errors = ...,
        stream: Literal[True],
        **options: Unpack[Options],
    ) -> Iterator[Classification]: ...
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        top: int = 5,
        threshold: float | None = None,
        errors: Errors = "raise",
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Classifications | Iterator[Classification]:
        """Classifies images. Returns one `Classification` per image: the `top` classes, or the values of a regression.

        `images` is one image or several: paths, folders, globs, bytes, open files, PIL images, NumPy arrays, torch
        tensors of any dtype (one image or a batch), or a list, a data set or an iterator of these. The result is a
        sequence in the order of the images. With `stream`, it is an iterator that reads images as needed and stores no
        results. For multi-label models, only labels whose score is at least `threshold` are returned. `options` are the
        options of `Predictor`.

        If an image cannot be read, `ImageError` is raised with the name of the image. With errors="yield", the result
        of the image contains the error instead. With errors="skip", the error is logged and the image is left out.
        Issues `UntrainedHeadWarning` if the head returns the same scores for every image. Raises ValueError if the
        model has no classes.
        """
        if not self.labels:
            raise ValueError("this model has no classes; use `embed`, or add a head by fine-tuning")
        if top < 1:
            raise ValueError(f"top is {top}; it must be at least 1")
        decoding = Decoding(self.labels, self.config.task, top, threshold)
        if threshold is not None:
            check_threshold(decoding.task, len(self.labels), threshold)
        _check_errors(errors)
        many = self.images(images)
        whole: Any = self  # not a `Backbone`: runs without the engine
        changed = type(self).forward is not Classifier.forward or is_hooked(self)
        predictor = Predictor(whole, self.processor, **options) if changed else self.predictor(**options)
        if is_untrained(self.model):
            warnings.warn(UNTRAINED, UntrainedHeadWarning, stacklevel=2)

        def result(index: int, outcome: Outcome) -> Classification:
            name = _name(outcome.source, index)
            if outcome.output is not None:
                check_labels(outcome.output, self.labels)
            return Classification(outcome.source, name, outcome.error, logits=outcome.output, decoding=decoding)

        found = _handled(map(result, count(), predictor.logits(many)), errors)
        return found if stream else Classifications(list(found))

    @overload
    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        blocks: Blocks | None = ...,
        as_maps: bool = ...,
        errors: Errors = ...,
        stream: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Embeddings: ...
    @overload
    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        blocks: Blocks | None = ...,
        as_maps: bool = ...,
        errors: Errors = ...,
        stream: Literal[True],
        **options: Unpack[Options],
    ) -> Iterator[Embedding]: ...
    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        blocks: Blocks | None = None,
        as_maps: bool = False,
        errors: Errors = "raise",
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Embeddings | Iterator[Embedding]:
        """Computes the feature vectors of images, the input of the head. Returns one `Embedding` per image.

        `Embedding.vector` is a float32 vector of shape (d,). If `blocks` is given, `Embedding.blocks` contains the
        outputs of these blocks, as in `Predictor.embeddings`. With `as_maps`, block outputs are feature maps. See
        `classify` for the other arguments.
        """
        if as_maps and blocks is None:
            raise ValueError("as_maps needs blocks, such as blocks=(3, 6, 9)")
        _check_errors(errors)
        many = self.images(images)
        indices = () if blocks is None else tuple(block_indices(blocks, self.model.num_taps))
        outcomes = self.predictor(**options).embeddings(many, blocks=indices or None, as_maps=as_maps)

        def result(index: int, outcome: Outcome) -> Embedding:
            taps = dict(zip(indices, outcome.taps, strict=True)) if outcome.error is None else {}
            name = _name(outcome.source, index)
            return Embedding(outcome.source, name, outcome.error, vector=outcome.output, blocks=taps)

        found = _handled(map(result, count(), outcomes), errors)
        return found if stream else Embeddings(list(found))

    def images(self, images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
        """Yields the single images of an input of `classify`. Folders, globs and batches are expanded.

        Raises TypeError or ValueError if the input does not consist of images.
        """
        data_range = getattr(self.processor, "data_range", None)
        return _expanded(each_image(images, self.model.config.channels, data_range=data_range))

    def predictor(self, **options: Unpack[Options]) -> Predictor:
        """Returns a `Predictor` with these options, cached until the options, the processor or the model change."""
        key = None if options.get("calibration") else (self.processor, tuple(sorted(options.items())))
        last = _LAST.get(self)
        if last is None or key is None or last[0] is not self.model or last[1] != key:
            last = (self.model, key, Predictor(self.model, self.processor, **options))
            _LAST[self] = last
        return last[2]

    def save(
        self, folder: str | os.PathLike[str], *, to: str | None = None, overwrite: bool = False, lossy: bool = False
    ) -> None:
        """Saves the classifier as a checkpoint in the format `to`, such as "timm" (see `checkpoints.save`).

        By default, the format is that of transformers if transformers has such a model. Raises CheckpointError if the
        target exists, unless `overwrite` is True, and if the format cannot store a part of the checkpoint, unless
        `lossy` is True.
        """
        checkpoints.save(self.checkpoint(), folder, to=to, overwrite=overwrite, lossy=lossy)

    def extra_repr(self) -> str:
        """Returns the first line of the repr: model family, number of parameters, input size, classes and origin."""
        return self.checkpoint().describe()

    def checkpoint(self) -> checkpoints.Checkpoint:
        """Returns the model, processor, labels and origin as a `Checkpoint`."""
        return checkpoints.Checkpoint(
            model=self.model, processor=self.processor, labels=self.labels, origin=self.origin or checkpoints.Origin()
        )


def load(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the public name
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    head: str | os.PathLike[str] | None = None,
    channels: int | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Classifier:
    """Loads a model with its processor and labels from a folder, a file or the Hugging Face Hub.

    Reads the checkpoints of transformers, timm, Google, big_vision, torchvision and the official DeiT, DINO and MAE
    files, and models exported by `vitkit.export`.

    >>> import vitkit
    >>> model = vitkit.load("google/vit-base-patch16-224")
    >>> model.classify("cat.jpg").top(1)
    >>> images = model.processor(["cat.jpg", "dog.jpg"])
    >>> logits = model(images)

    Args:
        source: A folder, a file (`ViT-B_16.npz`, or a part of it, `a.pth:teacher`), or a Hub id
            `owner/name[@revision]`.
        format: Name of the file format, if it cannot be inferred (`vitkit.checkpoints.list_formats()`).
        revision: Branch, tag or commit of the repository on the Hub.
        image_size: Input size in pixels, a number or (height, width). The position embeddings are resized.
        patch_size: Patch size in pixels, a number or (height, width). The patch embedding is resized.
        num_classes: Replace the head with an untrained head for this number of classes. 0 removes the head.
        head: File with a linear head that is published separately, as for DINO and DINOv2.
        channels: Adapt an RGB model to this number of input channels.
        config: Fields of the model config that the checkpoint does not contain, such as {"num_heads": 12}.
        dtype: Dtype of the weights. If None, the dtype of the checkpoint is kept.

    Raises CheckpointError with a one-line message if the checkpoint is invalid, and ValueError if an argument is
    invalid. Exported models accept no options except `image_size`, and this only if they were exported with a dynamic
    size.
    """
    if is_export(Path(source).expanduser()):
        fixed = {
            "format": format,
            "revision": revision,
            "patch_size": patch_size,
            "num_classes": num_classes,
            "head": head,
            "channels": channels,
            "config": config,
            "dtype": None if dtype == torch.float32 else dtype,
        }
        return _load_export(source, image_size, [name for name, value in fixed.items() if value])
    loaded = checkpoints.load(
        source,
        format=format,
        revision=revision,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        head=head,
        channels=channels,
        config=config,
        dtype=dtype,
    )
    for note in loaded.origin.notes:
        LOGGER.info("%s", note)
    return Classifier(loaded.model.eval(), loaded.processor, loaded.labels, loaded.origin)


def _load_export(
    source: str | os.PathLike[str], image_size: int | tuple[int, int] | None, changed: list[str]
) -> Classifier:
    """Loads an exported model. `changed` are the names of the given options that an exported model does not accept."""
    model, processor, labels = load_export(Path(source).expanduser())
    changed += ["image_size"] if image_size and not model.export.dynamic_size else []
    if changed:
        raise ValueError(
            f"{source} is an exported model, whose {' and '.join(changed)} cannot be changed; export the "
            "checkpoint again"
        )
    if image_size:
        rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
        model.resize((rows, columns))
        processor = resized(processor, (rows, columns))
    return Classifier(model, processor, labels, checkpoints.Origin(source=str(source), format=model.export.target))


def _check_errors(errors: Errors) -> None:
    if errors not in get_args(Errors):
        raise ValueError(f"errors is '{errors}'; it must be one of {', '.join(get_args(Errors))}")


def _expanded(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Yields images. Folders and globs are replaced with the files that they contain or match."""
    for image in images:
        if isinstance(image, str | os.PathLike):
            # The name of a file is yielded unchanged, a Path as a Path.
            name = os.fsdecode(image)
            yield from (image if found == name else found for found in expand([name]))
        else:
            yield image


def _name(image: ImageInput, index: int) -> str:
    """Returns the name of an image: the path of its file, or "image N" with its position if it has no path."""
    if is_path(image):
        return os.fsdecode(image) if isinstance(image, str | os.PathLike) else str(image)
    for attribute in ("name", "filename"):
        name = getattr(image, attribute, None)
        if isinstance(name, str | os.PathLike) and os.fspath(name):
            return os.fsdecode(name)
    return f"image {index}"


def _handled(results: Iterable[R], errors: Errors) -> Iterator[R]:
    """Yields results. Results with an error are raised, yielded or skipped, depending on `errors`."""
    for result in results:
        if result.error is None or errors == "yield":
            yield result
            continue
        message = f"{printable(result.name)}: {result.error}"
        if errors == "raise":
            raise ImageError(result.error.code, message)
        LOGGER.warning("skipped %s", message)
