"""The contract of data sources: `Source`, its examples, and sources that are derived from other sources."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from vitkit.images import AnyImage, ImageError, Limits, Profile, open_channels

Label = int | tuple[int, ...]


class ReadOptions(TypedDict, total=False):
    """Options of `images.open_channels`: size limits, ICC profiles, background color, channels and data range."""

    limits: Limits
    profile: Profile
    background: tuple[int, int, int]
    channels: int
    data_range: float | None


@dataclass(frozen=True)
class Example:
    """An image with its label or, for regression, with its targets.

    image    upright, any size, mode RGB, or what `images.open_channels` returns for the requested channels
    label    class index, or a tuple of class indices (empty for a regression)
    key      name of the image in messages
    targets  regression targets
    """

    image: AnyImage
    label: Label
    key: str
    targets: tuple[float, ...] = ()


class Source(ABC):
    """A map-style dataset of labeled images in a fixed order.

    `classes` are the class names, indexed by label. If `regression` is true, every image has regression targets
    (`targets`) instead of a label, and `classes` are the names of the targets. If the images have no labels, `classes`
    is empty, every label is -1, and `unlabelled` says how to provide labels. `skipped` lists entries that are not part
    of the source because they are not readable files: broken links, pipes, folders without permission. `lost` is the
    estimated number of images in skipped entries that contain several images, such as damaged shards. Reading must be
    safe from several processes at once.
    """

    classes: tuple[str, ...]
    regression: bool = False
    unlabelled: str = ""
    skipped: tuple[str, ...] = ()
    lost: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""

    @abstractmethod
    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns an image with its label. Raises `ImageError` if the image cannot be decoded."""

    @abstractmethod
    def label(self, index: int) -> Label:
        """Returns the label without reading the image. For regression, returns an empty tuple."""

    def key(self, index: int) -> str:
        """Returns the key of an image, as in `Example.key`. Images with the same key are the same image.

        By default, the image is read to get its key. Sources override this method if they know their keys.
        """
        return self.read(index).key

    def targets(self, index: int) -> tuple[float, ...]:
        """Returns the regression targets, one for each name in `classes`, without reading the image.

        Raises ValueError unless `regression` is true.
        """
        raise ValueError(f"the images of {type(self).__name__} have class labels, not regression targets")


class EncodedSource(Source):
    """Base class of sources whose images are encoded files. `images.open_channels` decodes them."""

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""

    def key(self, index: int) -> str:
        """Returns the key of an image without decoding it."""
        return self.encoded(index)[1]

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Decodes an image. Raises `ImageError` with the key of the image if it cannot be decoded."""
        try:
            data, key = self.encoded(index)
        except (OSError, ValueError) as error:  # a damaged shard or a failing disk does not stop the run
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ImageError("unreadable", reason or type(error).__name__) from None
        try:
            image = open_channels(data, **options)
        except ImageError as error:
            raise ImageError(error.code, f"{key}: {error}") from None
        targets = self.targets(index) if self.regression else ()
        return Example(image=image, label=self.label(index), key=key, targets=targets)


class Subset(Source):
    """The images of a source at the given indices."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source = source
        self.indices = indices
        self.classes = source.classes
        self.regression = source.regression
        self.unlabelled = source.unlabelled
        self.skipped, self.lost = source.skipped, source.lost

    def __len__(self) -> int:
        """Returns the number of images."""
        return int(self.indices.shape[0])

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns the example at `indices[index]` of the underlying source."""
        return self.source.read(int(self.indices[index]), **options)

    def label(self, index: int) -> Label:
        """Returns the label at `indices[index]` of the underlying source."""
        return self.source.label(int(self.indices[index]))

    def key(self, index: int) -> str:
        """Returns the key at `indices[index]` of the underlying source."""
        return self.source.key(int(self.indices[index]))

    def targets(self, index: int) -> tuple[float, ...]:
        """Returns the targets at `indices[index]` of the underlying source."""
        return self.source.targets(int(self.indices[index]))


class Relabelled(Source):
    """A source whose class indices are mapped to a different list of classes.

    `indices` maps the classes of the source to the new ones; by default classes are matched by name. The targets of a
    regression are reordered; raises ValueError if there are more new names than targets.
    """

    def __init__(self, source: Source, classes: tuple[str, ...], indices: tuple[int, ...] | None = None):
        self.source = source
        self.classes = classes
        self.skipped, self.lost = source.skipped, source.lost
        self.indices = tuple(map(classes.index, source.classes)) if indices is None else indices
        self.regression = source.regression
        if self.regression and len(classes) != len(source.classes):
            raise ValueError(
                f"the images have {len(source.classes)} regression targets; expected {len(classes)}: "
                f"{', '.join(classes)}"
            )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.source)

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns an example of the source with its mapped label."""
        targets = self.targets(index) if self.regression else ()
        return replace(self.source.read(index, **options), label=self.label(index), targets=targets)

    def label(self, index: int) -> Label:
        """Returns the label as an index into the new classes."""
        label = self.source.label(index)
        return self._mapped(label) if isinstance(label, int) else tuple(map(self._mapped, label))

    def key(self, index: int) -> str:
        """Returns the key of an image of the source."""
        return self.source.key(index)

    def _mapped(self, label: int) -> int:
        return self.indices[label] if label >= 0 else -1

    def targets(self, index: int) -> tuple[float, ...]:
        """Returns the targets in the order of the new target names."""
        values = self.source.targets(index)
        return tuple(value for _, value in sorted(zip(self.indices, values, strict=True)))


class Unlabelled(Source):
    """A source whose labels are ignored: every label is -1 and there are no classes."""

    classes = ()

    def __init__(self, source: Source, reason: str):
        self.source = source
        self.unlabelled = source.unlabelled or reason
        self.skipped, self.lost = source.skipped, source.lost

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.source)

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns an example of the source with the label -1."""
        return replace(self.source.read(index, **options), label=-1)

    def label(self, index: int) -> int:
        """Returns -1, which means that the image has no label."""
        return -1

    def key(self, index: int) -> str:
        """Returns the key of an image of the source."""
        return self.source.key(index)
