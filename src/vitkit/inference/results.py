"""Results of `Classifier.classify` and `Classifier.embed`: sequences with one result per image."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from vitkit.config import JsonDict
from vitkit.data.processor import ImageInput
from vitkit.images import ImageError
from vitkit.inference import _display, _files
from vitkit.inference.predictions import Prediction, top_predictions
from vitkit.task import Function, Task
from vitkit.text import fit, fit_all, plural, printable

if TYPE_CHECKING:
    import pandas as pd

# Number of results that the repr of a sequence shows.
SHOWN = 10
# Width of the repr of a sequence in terminal columns.
WIDTH = 80


@dataclass(frozen=True)
class Decoding:
    """How the logits of a model are decoded: labels, task, number of predictions and threshold."""

    labels: tuple[str, ...]
    task: Task
    top: int = 5
    threshold: float | None = None

    @property
    def function(self) -> Function:
        """The function that converts logits to scores: "softmax", "sigmoid", or "none" for regression."""
        return self.task.function(len(self.labels))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the fields of a prediction besides its label and index."""
        names: dict[Function, tuple[str, ...]] = {
            "softmax": ("score",),
            "sigmoid": ("score", "predicted"),
            "none": ("value",),
        }
        return names[self.function]


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """The result for one image. If the image could not be read, `error` is set and there is no output.

    `image` is the input image, as it was passed. `name` is its path, or "image N" with the position N in the input,
    counted from 0.
    """

    image: ImageInput
    name: str
    error: ImageError | None = None

    @abstractmethod
    def describe(self) -> str:
        """Returns the output as short text for one line of a table."""

    def lines(self) -> list[str]:
        """Returns the output as lines of text."""
        return [self.describe()]

    @abstractmethod
    def to_dict(self) -> JsonDict:
        """Returns the result as a dict for JSON, with `path` and either the output or `error`."""

    def show(self) -> None:
        """Shows the image with its output in a notebook or a window, or as text if there is no display."""
        _display.show([self], self)

    def _error_text(self) -> str:
        return f"cannot be read: {printable(self.error)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({printable(self.name)!r}: {self.describe()})"

    def _repr_html_(self) -> str:
        return _display.html([self], "")


R = TypeVar("R", bound=Result)


class Results(Sequence[R], Generic[R]):
    """A sequence of results in the order of the images. Slices are sequences of the same type."""

    def __init__(self, results: Sequence[R]):
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> "Results[R]": ...
    def __getitem__(self, index: int | slice) -> "R | Results[R]":
        return self._with(self._results[index]) if isinstance(index, slice) else self._results[index]

    def _with(self, results: Sequence[R]) -> "Results[R]":
        return type(self)(results)

    @property
    def errors(self) -> tuple[ImageError, ...]:
        """The errors of the images that could not be read."""
        return tuple(each.error for each in self if each.error is not None)

    def show(self) -> None:
        """Shows the images with their outputs in a notebook or a window, or as text if there is no display."""
        _display.show(self, self)

    def _title(self) -> str:
        failed = len(self.errors)
        return f"{type(self).__name__} of {plural(len(self), 'image')}" + (f", {failed} not readable" if failed else "")

    def __repr__(self) -> str:
        shown = self._results[:SHOWN]
        names = fit_all([printable(each.name) for each in shown], WIDTH // 2 - 4)
        width = max(map(len, names), default=0)
        rows = [
            f"  {fit(f'{name:<{width}}  {each.describe()}', WIDTH - 2)}"
            for name, each in zip(names, shown, strict=True)
        ]
        more = [f"  ... and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return "\n".join([self._title(), *rows, *more])

    def _repr_html_(self) -> str:
        return _display.html(self, self._title())


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Result):
    """The predicted classes, labels or values of one image. It unpacks as `image, predictions`, as a tuple does.

    `logits` contains the logits of all classes, or is None if the image could not be read.
    """

    logits: np.ndarray | None = None
    decoding: Decoding = field(default_factory=lambda: Decoding((), Task()))

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The best predictions, up to the `top` of `classify`. Empty for unreadable images."""
        return self.top(self.decoding.top)

    def top(self, k: int) -> list[Prediction]:
        """Returns the `k` best predictions, best first. For regression, returns the first `k` values."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        if self.logits is None:
            return []
        one = self.decoding
        return top_predictions(self.logits, one.labels, k, task=one.task, threshold=one.threshold)

    @property
    def scores(self) -> np.ndarray | None:
        """The scores of all classes, or the values for regression. None if the image could not be read."""
        return None if self.logits is None else self.decoding.task.scores(self.logits)

    @property
    def label(self) -> str | None:
        """The label of the best prediction, or None if there is no prediction."""
        return self.predictions[0].label if self.predictions else None

    @property
    def score(self) -> float | None:
        """The score of the best prediction, or None if there is no prediction."""
        return self.predictions[0].score if self.predictions else None

    def __iter__(self) -> Iterator[ImageInput | list[Prediction]]:
        yield self.image
        yield self.predictions

    def __getitem__(self, index: int) -> Any:
        """Returns the image for index 0, and the predictions for index 1."""
        return (self.image, self.predictions)[index]

    def describe(self) -> str:
        """Returns the predictions as short text, such as "tabby 71.23%, tiger cat 20.10%"."""
        if self.error is not None:
            return self._error_text()
        return ", ".join(map(str, self.predictions)) or "no label reaches the threshold"

    def lines(self) -> list[str]:
        """Returns one line per prediction, as `vitkit classify` prints them."""
        if self.error is not None or not self.predictions:
            return [self.describe()]
        return [_display.prediction_line(each, self.decoding.function) for each in self.predictions]

    def to_dict(self) -> JsonDict:
        """Returns the result as a dict for JSON, with `path` and either `predictions` or `error`."""
        if self.error is not None:
            return _files.error_dict(self.name, self.error)
        names = ("label", "index", *self.decoding.columns)
        found = [{name: getattr(each, name) for name in names} for each in self.predictions]
        return {"path": self.name, "predictions": found}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `rows`."""
        return ("path", "rank", "label", "index", *self.decoding.columns, "error")

    def csv_rows(self) -> list[list[str]]:
        """Returns `rows` as text for CSV."""
        return [_files.csv_row(self.columns, row) for row in self.rows()]

    def rows(self) -> list[tuple[object, ...]]:
        """Returns one row per prediction, with the path, rank, label, index, scores or values, and error code."""
        one = self.decoding
        if self.error is not None:
            return [(self.name, None, None, None, *[None] * len(one.columns), self.error.code)]
        return [
            (self.name, rank, each.label, each.index, *(getattr(each, name) for name in one.columns), None)
            for rank, each in enumerate(self.predictions, start=1)
        ]

    def to_pandas(self) -> "pd.DataFrame":
        """Returns a DataFrame with one row per prediction (see `Classifications.to_pandas`)."""
        return Classifications([self]).to_pandas()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the predictions as .csv, .jsonl or .parquet (see `Classifications.save`)."""
        Classifications([self]).save(path)


class Classifications(Results[Classification]):
    """A sequence of `Classification`, one for each image, in the order of the images."""

    def top(self, k: int) -> "Classifications":
        """Returns the results of all images, with the `k` best predictions of each image."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        return Classifications([replace(each, decoding=replace(each.decoding, top=k)) for each in self])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `to_pandas` and of saved tables."""
        return self[0].columns if len(self) else ("path", "rank", "label", "index", "score", "error")

    @staticmethod
    def check_path(path: str | os.PathLike[str]) -> None:
        """Raises ValueError if `save` cannot write this file: for its suffix, or because its folder is missing."""
        _files.check_suffix(Path(path).expanduser(), _files.TABLES)

    def to_pandas(self) -> "pd.DataFrame":
        """Returns a DataFrame with one row per prediction, best first.

        `top(1).to_pandas()` has one row per image. An image that could not be read has one row with its error code.
        Raises ImportError if pandas is not installed.
        """
        return _files.pandas().DataFrame([row for each in self for row in each.rows()], columns=list(self.columns))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the predictions in the format of the file suffix: .csv, .jsonl (one line per image) or .parquet.

        Raises ValueError for another suffix, and ImportError if pyarrow is needed for .parquet and not installed.
        """
        rows = (row for each in self for row in each.rows())
        _files.save(path, self.columns, rows, (each.to_dict() for each in self))


@dataclass(frozen=True, eq=False, repr=False)
class Embedding(Result):
    """The feature vector of one image. It unpacks as `image, vector`, as a tuple does.

    `vector` is the input of the head, a float32 array of shape (d,), or None if the image could not be read. `blocks`
    maps block indices to outputs, for the blocks that were requested from `embed`.
    """

    vector: np.ndarray | None = None
    blocks: dict[int, np.ndarray] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ImageInput]:
        yield self.image
        yield self.vector

    def __getitem__(self, index: int) -> Any:
        """Returns the image for index 0, and the vector for index 1."""
        return (self.image, self.vector)[index]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if self.vector is None:
            raise ValueError(f"{printable(self.name)} {self._error_text()}, so it has no embedding")
        return np.array(self.vector, dtype=dtype) if copy else np.asarray(self.vector, dtype=dtype)

    def describe(self) -> str:
        """Returns the width and the norm of the vector."""
        if self.vector is None:
            return self._error_text()
        rest = f", and the outputs of {plural(len(self.blocks), 'block')}" if self.blocks else ""
        return f"width {self.vector.shape[-1]}, norm {np.linalg.norm(self.vector):.4g}{rest}"

    def to_dict(self) -> JsonDict:
        """Returns the result as a dict for JSON, with `path` and either `embedding` (and `blocks`) or `error`."""
        if self.error is not None or self.vector is None:
            return _files.error_dict(self.name, self.error)
        taps = {str(block): output.tolist() for block, output in self.blocks.items()}
        return {"path": self.name, "embedding": self.vector.tolist(), **({"blocks": taps} if taps else {})}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the vector as .npz, .csv, .jsonl or .parquet (see `Embeddings.save`)."""
        Embeddings([self]).save(path)


class Embeddings(Results[Embedding]):
    """A sequence of `Embedding`, one for each image, in the order of the images."""

    @staticmethod
    def check_path(path: str | os.PathLike[str]) -> None:
        """Raises ValueError if `save` cannot write this file: for its suffix, or because its folder is missing."""
        _files.check_suffix(Path(path).expanduser(), _files.ARRAYS)

    @property
    def readable(self) -> "Embeddings":
        """The results of the images that could be read."""
        return Embeddings([each for each in self if each.vector is not None])

    def to_numpy(self) -> np.ndarray:
        """Returns the vectors of the readable images as one float32 array of shape (images, d)."""
        vectors = [each.vector for each in self if each.vector is not None]
        return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_numpy(), dtype=dtype)

    def to_pandas(self) -> "pd.DataFrame":
        """Returns a DataFrame with one row per readable image: the path as index, and d columns.

        Raises ImportError if pandas is not installed.
        """
        names = _files.pandas().Index([each.name for each in self.readable], name="path")
        return _files.pandas().DataFrame(self.to_numpy(), index=names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the vectors of the readable images as .npz, .csv, .jsonl or .parquet, by the file suffix.

        An .npz file has the arrays `paths` and `embeddings` (images, d), and `block_N` for the output of block N.
        Raises ValueError for another suffix, if no image could be read, and for feature maps of different shapes.
        Raises ImportError if pyarrow is needed for .parquet and not installed.
        """
        found = self.readable
        names = [each.name for each in found]
        blocks = {block: [each.blocks[block] for each in found] for block in (found[0].blocks if names else ())}
        _files.save_embeddings(path, names, found.to_numpy(), blocks, (each.to_dict() for each in found))
