"""`vitkit.embed`: computes feature vectors of images with a model."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Unpack, overload

from vitkit.api._model import LoadOptions, Model, Precision, Size, opened
from vitkit.data.processor import ImageInput
from vitkit.images import Limits
from vitkit.inference import Embedding, Embeddings
from vitkit.inference.classifier import Errors
from vitkit.inference.engine.merging import Reduction
from vitkit.inference.predictor import Options, Resampling
from vitkit.layers import Blocks


@overload
def embed(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    blocks: Blocks | None = ...,
    as_maps: bool = ...,
    errors: Errors = ...,
    stream: Literal[False] = ...,
    **options: Unpack[LoadOptions],
) -> Embeddings: ...
@overload
def embed(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    blocks: Blocks | None = ...,
    as_maps: bool = ...,
    errors: Errors = ...,
    stream: Literal[True],
    **options: Unpack[LoadOptions],
) -> Iterator[Embedding]: ...
def embed(
    model: Model,
    images: ImageInput | Iterable[ImageInput],
    *,
    blocks: Blocks | None = None,
    as_maps: bool = False,
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
) -> Embeddings | Iterator[Embedding]:
    """Computes the feature vector of each image, which is the input of the head. Returns results in order.

    >>> import vitkit
    >>> results = vitkit.embed("google/vit-base-patch16-224", "photos/")
    >>> vectors = results.to_numpy()  # (images, width), float32
    >>> results[0].vector.shape
    >>> results.save("photos.npz")  # or .parquet, .jsonl, .csv
    >>> for image, vector in vitkit.embed("google/vit-base-patch16-224", "photos/", stream=True):
    ...     print(image, vector[:3])

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        images: One image or several, as for `vitkit.classify`.
        blocks: Also return the outputs of these blocks, as the attribute `blocks` of each result. A list contains block
            indices, which may be negative. An int is the number of last blocks. In a convolutional network, the blocks
            are the stages.
        as_maps: Return the outputs of `blocks` as feature maps (width, rows, columns) instead of one vector each.
        errors: What happens if an image cannot be read: "raise", "yield" or "skip", as for `vitkit.classify`.
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

    Raises ValueError if an argument is invalid. Raises TypeError if an object in `images` is not an image.
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
        return classifier.embed(images, blocks=blocks, as_maps=as_maps, errors=errors, stream=True, **options)
    return classifier.embed(images, blocks=blocks, as_maps=as_maps, errors=errors, **options)
