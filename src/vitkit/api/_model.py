"""Loads the `model` argument of API functions, which is a classifier, a path or a Hub id."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from vitkit.data.processor import ImageInput
from vitkit.images import Limits
from vitkit.inference import Classifier, load
from vitkit.inference.engine.merging import Reduction
from vitkit.inference.predictor import Resampling

#: A classifier of `vitkit.load`, a folder, a file, or a Hub id.
Model = Classifier | str | os.PathLike[str]
Size = int | tuple[int, int]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"]


class LoadOptions(TypedDict, total=False):
    """Options of `vitkit.classify` and `vitkit.embed` for running a model (`Predictor`) and for loading it."""

    precision: Precision
    device: str
    batch_size: int | None
    calibration: Iterable[ImageInput]
    merge_tokens: Reduction
    resampling: Resampling
    compile: bool
    limits: Limits | None
    allow_truncated: bool
    progress: bool
    image_size: Size | None
    revision: str | None
    config: Mapping[str, Any] | None


def opened(
    model: Model,
    *,
    revision: str | None = None,
    image_size: Size | None = None,
    config: Mapping[str, Any] | None = None,
) -> Classifier:
    """Loads a classifier with these options, or returns `model` if it is a classifier already.

    Raises TypeError if `model` is another kind of object. Raises ValueError if options are given for a model that is
    already loaded.
    """
    if isinstance(model, Classifier):
        options = {"revision": revision, "image_size": image_size, "config": config}
        if given := [name for name, value in options.items() if value]:
            raise ValueError(
                f"the model is loaded already, so {' and '.join(given)} cannot change it; pass "
                f"{'it' if len(given) == 1 else 'them'} to vitkit.load, or pass the path of the model"
            )
        return model
    if not isinstance(model, str | os.PathLike):
        kind = type(model).__name__
        raise TypeError(
            f"model is {'None' if model is None else f'an object of type {kind}'}; expected a classifier of "
            "vitkit.load, a folder, a file or a Hub id"
        )
    return load(model, revision=revision, image_size=image_size, config=config)
