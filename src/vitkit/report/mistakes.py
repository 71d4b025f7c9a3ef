"""Report section that shows misclassified images, with attention maps.

Attention maps are computed for the shown images only, so the evaluation itself keeps its fused attention.
"""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit.checkpoints import Checkpoint
from vitkit.data import ReadOptions, Source
from vitkit.data.augment import read_options
from vitkit.data.processor import Processor
from vitkit.evaluation import Predictions, top1
from vitkit.explanation._hooks import find_query, patch_map, token_backbone
from vitkit.explanation._inputs import read
from vitkit.explanation.rollout import rollout
from vitkit.images import Limits
from vitkit.inference.runtimes import ExportedModel
from vitkit.layers import eval_mode
from vitkit.models import Backbone
from vitkit.report.page import image_tag

Overlays = Callable[[Sequence[int]], list[Image.Image]]
MAX_SHOWN = 24
MIN_BRIGHTNESS = 0.12  # brightness where the map is lowest
BATCH_SIZE = 4  # attention weights of one layer are in memory for this many images
# The evaluation has read these images under the limits of the run.
ALREADY_READ = Limits(max_bytes=1 << 40, max_pixels=1 << 40)
CELL = 16  # pixels per side over which a gradient is averaged, like a patch

ROLLOUT = "attention rollout through all layers (ViT paper, Figure 6)"
GRADIENT = "input gradient of the predicted class"


def wrong_predictions(predictions: Predictions) -> list[int]:
    """Returns the indices of the images with a wrong prediction, the most confident mistake first.

    With independent labels an image is wrong if one label is. For a regression it returns all images, with the largest
    error in units of the standard deviation first.
    """
    task = predictions.task
    if task.regression:
        errors = (predictions.scores - predictions.targets).abs() / predictions.targets.double().std(dim=0).clamp(1e-9)
        return errors.amax(dim=1).argsort(descending=True, stable=True).tolist()
    if task.problem_type == "multi_label_classification":
        truth = predictions.targets > 0
        differs = task.decisions(predictions.logits) != truth
        errors = ((predictions.scores - truth.float()).abs() * differs).amax(dim=1)
        return errors.argsort(descending=True, stable=True)[: int(differs.any(dim=1).sum())].tolist()
    wrong = (~top1.hits(predictions, 1)) & (predictions.targets.sum(dim=1) > 0)
    confidence = predictions.scores.amax(dim=1).masked_fill(~wrong, -1.0)
    order: list[int] = confidence.argsort(descending=True, stable=True)[: int(wrong.sum())].tolist()
    return order


def section(source: Source, predictions: Predictions, best: Checkpoint | None = None) -> str:
    """Returns a section with the most confident mistakes: images, labels, predictions and optional attention maps.

    `predictions` are in the order of `source`.
    """
    wrong = wrong_predictions(predictions)
    if not wrong:
        return "<h2>Mistakes</h2><p>None: every validation image is classified correctly.</p>"
    shown = wrong[:MAX_SHOWN]
    title = f"Mistakes: the {len(shown)} most confident of {len(wrong)}" if len(wrong) > len(shown) else "Mistakes"
    title = f"The {len(shown)} largest errors" if predictions.task.regression else title
    regression = predictions.task.regression
    order = "Sorted by error, largest first." if regression else "Sorted by confidence."
    overlays: list[Image.Image] = []
    caption = ""
    if best is not None and isinstance(best.model, ExportedModel):
        caption = " There are no attention maps, because an exported model returns neither attention nor gradients."
    elif best is not None:
        overlays = attention_overlays(best.model, best.processor, source)(shown)
        kind = ROLLOUT if has_attention(best.model) else GRADIENT
        caption = f" The second image of each pair is bright where the model looked: {kind}."
    pairs = zip(shown, overlays or [None] * len(shown), strict=True)
    options = ReadOptions(limits=ALREADY_READ) if best is None else read_options(best.processor, ALREADY_READ)
    images = (source.read(index, **options).image.convert("RGB") for index in shown)
    cards = "".join(
        _card(image, source.classes, predictions, index, overlay)
        for image, (index, overlay) in zip(images, pairs, strict=True)
    )
    return (
        f"<h2>{title}</h2><p class='soft'>{order} Some of these may be wrong {'targets' if regression else 'labels'}."
        f'{caption}</p><div class="images{" wide" if overlays else ""}">{cards}</div>'
    )


def _card(
    image: Image.Image, names: tuple[str, ...], predictions: Predictions, index: int, overlay: Image.Image | None
) -> str:
    true, true_score, predicted, score = _captions(names, predictions, index)
    shown = image_tag(image, alt=f"{true}, predicted as {predicted}")
    if overlay is not None:
        shown = f'<div class="overlay">{shown}{image_tag(overlay, alt="attention map")}</div>'
    prediction = f"<span>predicted</span> <span class='wrong'>{escape(predicted)}</span> <span>{score}</span>"
    kind = "true" if predictions.task.regression else "label"
    return (
        f"<figure>{shown}<figcaption><span>{kind}</span> <b>{escape(true)}</b> <span>{true_score}</span><br>"
        f"{prediction}<br><small>{escape(predictions.keys[index])}</small></figcaption></figure>"
    )


def _captions(names: tuple[str, ...], predictions: Predictions, index: int) -> tuple[str, str, str, str]:
    """Returns four captions of an image: true labels and their scores, then predicted labels and their scores."""
    scores, targets = predictions.scores[index].tolist(), predictions.targets[index].tolist()
    if predictions.task.regression:
        shown = names if len(names) > 1 else ("",)
        found, true = (
            ", ".join(f"{name} {value:.4g}".strip() for name, value in zip(shown, values, strict=True))
            for values in (scores, targets)
        )
        return true, "", found, ""
    labels = [label for label, target in enumerate(targets) if target > 0]
    true_names = ", ".join(names[label] for label in labels) or "none"
    if predictions.task.problem_type == "multi_label_classification":
        chosen = predictions.task.decisions(predictions.logits[index]).nonzero()[:, 0].tolist()
        true, found = (
            ", ".join(f"{names[label]} {scores[label]:.0%}" for label in each) or "none" for each in (labels, chosen)
        )
        return true, "", found, ""
    best = int(predictions.logits[index].argmax())
    return true_names, f"{sum(scores[label] for label in labels):.0%}", names[best], f"{scores[best]:.0%}"


def has_attention(model: Backbone) -> bool:
    """Returns whether the model has attention between patches, which attention rollout requires."""
    try:
        token_backbone(model)
    except ValueError:
        return False
    return True


def attention_overlays(model: Backbone, processor: Processor, source: Source) -> Overlays:
    """Returns a function that draws the images with given indices, darkened where the attention is low."""

    def overlays(indices: Sequence[int]) -> list[Image.Image]:
        images: list[Image.Image] = []
        options = read_options(processor, ALREADY_READ)
        for start in range(0, len(indices), BATCH_SIZE):
            batch = [source.read(index, **options).image for index in indices[start : start + BATCH_SIZE]]
            subject = read(model, processor, batch)
            pixels = subject.pixels.to(next(model.parameters()).dtype)
            maps = attention_map(model, pixels) if has_attention(model) else gradient_map(model, pixels)
            images += [dim(image, each) for image, each in zip(subject.images, maps.cpu().numpy(), strict=True)]
        return images

    return overlays


def attention_map(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """Returns the attention rollout from the class token, or from the mean of the patches, to each patch."""
    product, features = rollout(model, pixels)
    return patch_map(product, features, find_query(token_backbone(model), features)).float()


def gradient_map(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """Returns a saliency map: the absolute input gradient of the highest logit, averaged over small squares."""
    with eval_mode(model), torch.enable_grad():
        inputs = pixels.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).amax(dim=1).sum(), inputs)
    size = max(1, pixels.shape[2] // CELL), max(1, pixels.shape[3] // CELL)
    return F.adaptive_avg_pool2d(gradient.float().abs().amax(dim=1, keepdim=True), size)[:, 0]


def dim(image: Image.Image, values: Float[np.ndarray, "rows columns"]) -> Image.Image:
    """Darkens an image where a map has low values, down to the fraction `MIN_BRIGHTNESS` of its brightness."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.ones_like(values)
    mask = Image.fromarray((scaled * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    factor = MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * np.asarray(mask, dtype=np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(image.convert("RGB")) * factor).astype(np.uint8))
