"""`vitkit.predict`: predicts the labels of all images of a data source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from vitkit.api._model import Model, Precision, Size, opened
from vitkit.api._runs import Name
from vitkit.config import JsonDict, nearest
from vitkit.data import EncodedSource, Source, source_of, splits
from vitkit.data.augment import read_options
from vitkit.data.processor import ImageInput, Processor
from vitkit.images import DEFAULT_LIMITS, ImageError, Limits, Unlisted
from vitkit.inference import Classification, Classifications
from vitkit.text import percent


@dataclass(frozen=True, eq=False, repr=False)
class LabelledPrediction(Classification):
    """The prediction for an image of a data source.

    It extends `Classification` with the split and true labels. `name` is the key of the image in the data source.
    `truth` are the true labels of the image. It is empty if the source has no labels.
    """

    split: str = "all"
    truth: tuple[str, ...] = ()

    @property
    def correct(self) -> bool | None:
        """Whether the best prediction is a true label. None if there is no true label or no prediction."""
        return None if not self.truth or self.label is None else self.label in self.truth

    def describe(self) -> str:
        """Returns the predictions as short text, with the true label if the best prediction is wrong."""
        wrong = f" (true: {', '.join(self.truth)})" if self.correct is False else ""
        return f"{super().describe()}{wrong}"

    def to_dict(self) -> JsonDict:
        """Returns the prediction as a dict for JSON: `path`, `split`, `truth`, and `predictions` or `error`."""
        path, *rest = super().to_dict().items()
        return dict([path, ("split", self.split), ("truth", list(self.truth)), *rest])

    def rows(self) -> list[tuple[object, ...]]:
        """Returns one row per prediction: path, split, true labels, and the other columns."""
        return [(path, self.split, "|".join(self.truth), *rest) for path, *rest in super().rows()]


class LabelledPredictions(Classifications):
    """A sequence of `LabelledPrediction`, one for each image of a data source."""

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> LabelledPrediction: ...
        @overload
        def __getitem__(self, index: slice) -> "LabelledPredictions": ...
        def __getitem__(self, index: int | slice) -> "LabelledPrediction | LabelledPredictions": ...
        def __iter__(self) -> Iterator[LabelledPrediction]: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `to_pandas` and of saved tables."""
        path, *rest = super().columns
        return (path, "split", "truth", *rest)

    @property
    def mistakes(self) -> "LabelledPredictions":
        """The images whose best prediction is not a true label, sorted by decreasing score."""
        wrong = [each for each in self if each.correct is False]
        return LabelledPredictions(sorted(wrong, key=lambda each: -(each.score or 0.0)))

    @property
    def accuracy(self) -> float | None:
        """The fraction of readable labeled images whose best prediction is correct, or None if there are none."""
        known = [each.correct for each in self if each.correct is not None]
        return sum(known) / len(known) if known else None

    def top(self, k: int) -> "LabelledPredictions":
        """Returns the predictions of all images, with the `k` best labels of each image."""
        return LabelledPredictions(list(super().top(k)))

    def _title(self) -> str:
        return super()._title() + ("" if self.accuracy is None else f", accuracy {percent(self.accuracy)}")


def predict(
    model: Model,
    data: Name,
    *,
    split: str | None = None,
    top: int = 1,
    threshold: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    limits: Limits | None = None,
    progress: bool = False,
    image_size: Size | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> LabelledPredictions:
    """Predicts the labels of all images of a folder or a data source.

    All results are returned in memory. If an image cannot be read, the attribute `error` of its result is set. Use
    `vitkit.classify` for single images, and `vitkit.evaluate` for metrics.

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        data: Images: a folder (with or without one folder per class), a .csv, .jsonl, .parquet or .tar file, or a data
            source such as `hub:cifar10`.
        split: Split of the data, such as `val`. If None: all splits.
        top: Number of predictions per image, best first.
        threshold: For multi-label models: only the labels whose score is at least this value, from 0 to 1.
        precision: Numerical precision. "auto" uses the fastest precision whose outputs are close to those of float32.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If None: 8 on a CPU, 64 on a GPU.
        limits: Limits of image files, such as `vitkit.Limits(max_pixels=400_000_000)`.
        progress: Show a progress bar on standard error.
        image_size: Input size in pixels, a number or (height, width). If None: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.

    Raises:
        ValueError: The data source or the split does not exist, or the model has no classes.

    Example:
        >>> rows = vitkit.predict("runs/flowers/best", "flowers/")
        >>> rows.accuracy
        0.93...
        >>> rows.mistakes[0]
        LabelledPrediction('rose/12.jpg': tulip 98.10% (true: rose))
        >>> rows.to_pandas()
        >>> rows.save("labels.csv")
    """
    classifier = opened(model, revision=revision, image_size=image_size, config=config)
    found = splits(source_of(data), needs_labels=False)
    if split is not None and split not in found:
        raise ValueError(f"the data source '{data}' has no split '{split}'{nearest(split, found)}")
    chosen = found if split is None else {split: found[split]}
    places = [(name, source, index) for name, source in chosen.items() for index in range(len(source))]
    keys: dict[int, str] = {}
    results = classifier.classify(
        _images(places, classifier.processor, limits or DEFAULT_LIMITS, keys),
        top=top,
        threshold=threshold,
        errors="yield",
        stream=True,
        precision=precision,
        device=device,
        batch_size=batch_size,
        limits=limits,
        progress=progress,
    )
    rows = []
    for number, ((name, source, index), each) in enumerate(zip(places, results, strict=True)):
        key, truth = keys.get(number, f"image {index}"), _truth(source, index)
        rows.append(
            LabelledPrediction(
                each.image, key, each.error, logits=each.logits, decoding=each.decoding, split=name, truth=truth
            )
        )
    return LabelledPredictions(rows)


def _images(
    places: Sequence[tuple[str, Source, int]], processor: Processor, limits: Limits, keys: dict[int, str]
) -> Iterator[ImageInput]:
    """Yields the images of a source: open files of encoded images, to be decoded in worker threads, or pixels.

    Sets `keys[i]` to the key of the image at position i.
    """
    for number, (_, source, index) in enumerate(places):
        try:
            if isinstance(source, EncodedSource):
                image, keys[number] = source.encoded(index)
            else:
                example = source.read(index, **{**read_options(processor), "limits": limits})
                image, keys[number] = example.image, example.key
            yield image
        except ImageError as error:
            yield Unlisted(f"image {index}", error)
        except (OSError, ValueError) as error:
            yield Unlisted(f"image {index}", ImageError("unreadable", str(error)))


def _truth(source: Source, index: int) -> tuple[str, ...]:
    """Returns the true labels of an image, or the values of its regression targets."""
    if source.regression:
        return tuple(f"{value:g}" for value in source.targets(index))
    label = source.label(index)
    return tuple(source.classes[each] for each in (label if isinstance(label, tuple) else (label,)) if each >= 0)
