"""`vitkit.classify`: classifies images with a model."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Unpack, overload

from vitkit.api._model import LoadOptions, Model, Precision, Size, opened
from vitkit.data.processor import ImageInput
from vitkit.images import Limits
from vitkit.inference import Classification, Classifications
from vitkit.inference.classifier import Errors
from vitkit.inference.engine.merging import Reduction
from vitkit.inference.predictor import Options, Resampling


@overload
def classify(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    top: int = ...,
    threshold: float | None = ...,
    errors: Errors = ...,
    stream: Literal[False] = ...,
    **options: Unpack[LoadOptions],
) -> Classifications: ...
@overload
def classify(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    top: int = ...,
    threshold: float | None = ...,
    errors: Errors = ...,
    stream: Literal[True],
    **options: Unpack[LoadOptions],
) -> Iterator[Classification]: ...
def classify(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    top: int = 5,
    threshold: float | None = None,
    errors: Errors = "raise",
    stream: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    calibration: Iterable[ImageInput] = (),
    merge_tokens: Reduction = 0,
    resampling: Resampling = "pillow",
    compile: bool = False,  # noqa: A002 - the name that torch uses
    limits: Limits | None = None,
    allow_truncated: bool = False,
    progress: bool = False,
    image_size: Size | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Classifications | Iterator[Classification]:
    """Classifies images. Returns one result per image, in order.

    >>> import vitkit
    >>> results = vitkit.classify("google/vit-base-patch16-224", "photos/")
    >>> results[0].label, results[0].score
    >>> results[0].top(3)
    >>> results.save("photos.csv")
    >>> table = results.top(1).to_pandas()
    >>> model = vitkit.load("google/vit-base-patch16-224")  # once, for many calls
    >>> for image, predictions in vitkit.classify(model, ["cat.jpg", "missing.jpg"], errors="skip"):
    ...     print(image, predictions[0])

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        images: One image or several: paths, folders, globs, bytes, open files, PIL images, NumPy arrays, torch tensors
            of any dtype (one image or a batch), or a list, a data set or an iterator of these.
        top: Number of predictions per image, best first. `top(k)` of a result returns any other number.
        threshold: For multi-label models: only the labels whose score is at least this value, from 0 to 1.
        errors: What happens if an image cannot be read. "raise" raises `vitkit.ImageError` with the name of the image,
            "yield" returns a result with `error` set, and "skip" logs the error and leaves out the image.
        stream: Return an iterator that reads images as needed and stores no results, for millions of images.
        precision: Numerical precision. "auto" uses the fastest precision whose outputs are close to those of float32.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If None: 8 on a CPU, 64 on a GPU.
        calibration: Images for the calibration of int8. If empty, the first batch is used.
        merge_tokens: Number of tokens to merge in each block (ToMe). This is faster but changes the outputs.
        resampling: How images are resized: as in Pillow ("pillow") or as in PyTorch ("torch"). "draft" decodes large
            JPEG files at a reduced size, which is faster.
        compile: Compile the model with torch.compile, which takes a minute or more.
        limits: Limits of image files, such as `vitkit.Limits(max_pixels=400_000_000)`.
        allow_truncated: Decode truncated image files instead of reporting an error.
        progress: Show a progress bar on standard error.
        image_size: Input size in pixels, a number or (height, width). If None: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.

    Raises ValueError if the model has no classes or an argument is invalid. Raises TypeError if an object in `images`
    is not an image.
    """
    classifier = opened(model, revision=revision, image_size=image_size, config=config)
    options: Options = {
        "precision": precision,
        "device": device,
        "batch_size": batch_size,
        "calibration": calibration,
        "merge_tokens": merge_tokens,
        "resampling": resampling,
        "compile": compile,
        "limits": limits,
        "allow_truncated": allow_truncated,
        "progress": progress,
    }
    if stream:
        return classifier.classify(images, top=top, threshold=threshold, errors=errors, stream=True, **options)
    return classifier.classify(images, top=top, threshold=threshold, errors=errors, **options)
