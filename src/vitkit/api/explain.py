"""`vitkit.explain`: attention maps and other explanations of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from vitkit import explanation as explanations
from vitkit.api._model import Model, Size, opened
from vitkit.data.processor import ImageInput
from vitkit.explanation import Explanation, _inputs
from vitkit.images import DEFAULT_LIMITS, AnyImage, ImageError, Limits
from vitkit.inference import Classifier, Predictor
from vitkit.inference.classifier import Errors
from vitkit.logs import LOGGER

# The modules of `vitkit.explanation`.
Method = Literal["attention", "distance", "filters", "foreground", "gradient", "pca", "positions", "rollout"]


def explain(
    model: Model,
    images: ImageInput | Iterable[ImageInput] = (),
    *,
    method: Method | str = "rollout",
    layer: int | None = None,
    head: int | None = None,
    label: str | int | None = None,
    fusion: Literal["mean", "max", "min"] | None = None,
    discard: float | None = None,
    share: float | None = None,
    number: int | None = None,
    all_patches: bool = False,
    errors: Errors = "raise",
    device: str = "auto",
    limits: Limits | None = None,
    image_size: Size | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explains a model with attention maps, attention rollout, gradients or another method.

    >>> import vitkit
    >>> explanation = vitkit.explain("google/vit-base-patch16-224", "cat.jpg")
    >>> explanation.save("cat.png")  # the drawing; .npz for the arrays
    >>> explanation.maps["rollout"].shape  # (images, rows, columns)
    >>> model = vitkit.load("google/vit-base-patch16-224")
    >>> for one in vitkit.explain(model, ["cat.jpg", "dog.jpg"], method="gradient", label="cat"):
    ...     print(one.image().size)

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        images: One image or several, as for `vitkit.classify`. The methods positions and filters need none.
        method: rollout (attention rollout through all layers), attention (every head of a layer), gradient
            (gradient-weighted attention for a class, or Grad-CAM for a ResNet), foreground (the patches with most of a
            head's attention), distance (mean attention distance of every head), pca (principal components of the patch
            features of all images as colors), positions (similarity of position embeddings) or filters (principal
            components of the patch embedding); or the name of a method of a plug-in, such as ./mine.py:NAME.
        layer: Layer to explain, or the last layer that rollout includes. Negative numbers count from the end. If None:
            -1.
        head: Attention head to draw. With attention and no layer, this head is drawn for every layer.
        label: Class name or index for gradient. If None: the predicted class.
        fusion: How rollout combines the heads. If None: mean, as in the ViT paper.
        discard: Fraction of the attention weights that rollout sets to 0, starting with the smallest. If None: 0.
        share: Fraction of the attention that the mask of foreground contains. If None: 0.6, as in DINO.
        number: Number of principal components to draw with filters. If None: 28, as in the ViT paper.
        all_patches: With pca, color all patches and not only the foreground patches.
        errors: What happens if an image cannot be read. "raise" raises `vitkit.ImageError` with the name of the image,
            "yield" adds the error to `errors` of the result, and "skip" logs the error and leaves out the image.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        limits: Limits of image files, such as `vitkit.Limits(max_pixels=400_000_000)`.
        image_size: Input size in pixels, a number or (height, width). If None: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.

    Raises ValueError if the method does not have an option or does not support the model.
    """
    options = {
        "layer": layer,
        "head": head,
        "label": label,
        "fusion": fusion,
        "discard": discard,
        "share": share,
        "number": number,
        "all_patches": all_patches or None,
    }
    if errors not in get_args(Errors):
        raise ValueError(f"errors is '{errors}'; it must be one of {', '.join(get_args(Errors))}")
    classifier = opened(model, revision=revision, image_size=image_size, config=config)
    placed = Predictor(classifier.model, classifier.processor, precision="float32", device=device)
    found, failed = _read(classifier, images, errors, limits or DEFAULT_LIMITS)
    shown = _inputs.read(placed.model, classifier.processor, found, classifier.labels)
    given = {name: value for name, value in options.items() if value is not None}
    explanation = explanations.explain(method, shown, **given)
    return replace(explanation, errors=tuple(failed) if errors == "yield" else ())


def _read(
    classifier: Classifier, images: ImageInput | Iterable[ImageInput], errors: Errors, limits: Limits
) -> tuple[list[AnyImage], list[ImageError]]:
    """Returns the readable images and the errors of the other images.

    Raises an error if no image is readable.
    """
    found, failed = _inputs.readable(classifier.processor, list(classifier.images(images)), limits)
    if failed and errors == "raise":
        raise failed[0]
    for error in failed[:-1] if not found else failed if errors == "skip" else ():
        LOGGER.warning("%s", error)
    if failed and not found:
        raise failed[-1]
    return found, failed
