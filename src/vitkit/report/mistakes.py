"""Report section with the mistakes of a model. The most confident mistakes are shown with images."""

from collections.abc import Sequence
from typing import Literal

import torch

from vitkit.checkpoints import Checkpoint
from vitkit.data import Source
from vitkit.data.fixes import original_names
from vitkit.evaluation import Predictions
from vitkit.inference.runtimes import ExportedModel
from vitkit.report import attention, gallery, thumbnails
from vitkit.report.gallery import Gallery, Row
from vitkit.report.page import page_links
from vitkit.report.predictions import correct, labelled, losses
from vitkit.text import utf8_text

MAX_ROWS = 20_000  # maximum number of mistakes in the report; the prediction files have all images
MAX_IMAGES = 1_000  # maximum number of mistakes with an image
# Maximum size of the gallery data (rows, images and maps) in characters. The rest of the page has fewer than 400,000.
BUDGET = 2_500_000
LEAST_FOR_IMAGES = 600_000  # characters for images if the rows leave less of the budget


def wrong_predictions(predictions: Predictions) -> list[int]:
    """Returns the indices of the images with a wrong prediction, the most confident mistake first.

    With independent labels an image is wrong if one label is. For a regression it returns all images, with the largest
    error in units of the standard deviation first.
    """
    task = predictions.task
    if task.regression:
        return _errors(predictions).argsort(descending=True, stable=True).tolist()
    wrong = ~correct(predictions)
    if task.problem_type == "multi_label_classification":
        truth = predictions.targets > 0
        differs = task.decisions(predictions.logits) != truth
        confidence = ((predictions.scores - truth.float()).abs() * differs).amax(dim=1)
    else:
        confidence = predictions.scores.amax(dim=1).masked_fill(~wrong, -1.0)
    order: list[int] = confidence.argsort(descending=True, stable=True)[: int(wrong.sum())].tolist()
    return order


def _errors(predictions: Predictions) -> torch.Tensor:
    """Returns the largest error of each image of a regression, in standard deviations of the target."""
    spread = predictions.targets.double().std(dim=0).clamp(1e-9)
    return ((predictions.scores - predictions.targets).abs() / spread).amax(dim=1)


def section(
    source: Source,
    predictions: Predictions,
    best: Checkpoint | None = None,
    *,
    split: str = "",
    links: Sequence[str] = (),
) -> str:
    """Returns a section with the mistakes: images, labels, predictions and maps of where the model looked.

    `predictions` are in the order of `source`, `split` is the split of the images, and `links` are the names of the
    prediction files.
    """
    wrong = wrong_predictions(predictions)
    regression = predictions.task.regression
    title = "Largest errors" if regression else f"Mistakes: {len(wrong):,}" if wrong else "Mistakes"
    files = f"<p>{page_links(links, len(predictions.keys))}</p>" if links else ""
    head = f'<section id="mistakes" aria-labelledby="mistakes-title"><h2 id="mistakes-title">{title}</h2>{files}'
    if not wrong:
        found = "every image is classified correctly" if labelled(predictions).any() else "no image has a label"
        return f"{head}<p>None: {found}.</p></section>"
    shown = wrong[:MAX_ROWS]
    content = _gallery(source, predictions, shown, best, split)
    return f"{head}<p class='soft'>{_caption(content, len(wrong), best)}</p>{gallery.html(content)}</section>"


def _caption(content: Gallery, total: int, best: Checkpoint | None) -> str:
    regression = content.kind == "regression"
    texts = [f"Some of these may be wrong {'targets' if regression else 'labels'}."]
    if total > len(content.rows):
        texts.append(f"The first {len(content.rows):,} of {total:,} are shown.")
    with_image = sum(image is not None for image in content.images)
    if with_image < len(content.rows):
        texts.append(f"The first {with_image:,} have an image.")
    if best is None:
        return " ".join(texts)
    texts.append("An image is the crop that the model saw.")
    if isinstance(best.model, ExportedModel):
        texts.append("There are no attention maps, because an exported model returns neither attention nor gradients.")
    elif any(content.maps):
        kind = attention.ROLLOUT if attention.has_attention(best.model) else attention.GRADIENT
        texts.append(f"The second image of each pair is bright where the model looked: {kind}.")
    return " ".join(texts)


def _gallery(
    source: Source, predictions: Predictions, shown: Sequence[int], best: Checkpoint | None, split: str
) -> Gallery:
    """Returns a gallery of the mistakes, with as many images as fit the budget."""
    problem, regression = predictions.task.problem_type, predictions.task.regression
    kinds: dict[str, Literal["single", "multi"]] = {"multi_label_classification": "multi"}
    choices = [] if regression else sorted(original_names(source).items())
    views = [
        (thumbnails.reduced(view.image) if view.image else None, view.map)
        for view in attention.views(source, shown[:MAX_IMAGES], best)
    ]
    maps = [None if values is None else attention.encoded_map(values) for _, values in views]
    plain = Gallery(
        kind="regression" if regression else kinds.get(problem, "single"),
        names=source.classes,
        choices=[(index, utf8_text(name)) for index, name in choices],
        split=split,
        rows=_rows(predictions, shown),
        maps=maps,
    )
    text = len(plain.to_json()) + sum(len(each[2]) + 12 for each in maps if each)
    found = thumbnails.encode([image for image, _ in views if image], max(BUDGET - text, LEAST_FOR_IMAGES))
    encoded = iter(found)
    images = [next(encoded, None) if image else None for image, _ in views]
    return Gallery(**{**plain.__dict__, "images": images})


def _rows(predictions: Predictions, shown: Sequence[int]) -> list[Row]:
    """Returns the rows of the gallery for the images with the given indices."""
    chosen = torch.tensor(shown)
    scores, loss = predictions.scores[chosen], losses(predictions)[chosen].tolist()
    keys = [utf8_text(predictions.keys[index]) for index in shown]
    if predictions.task.regression:
        errors, true = _errors(predictions)[chosen].tolist(), predictions.targets[chosen].tolist()
        found = [[float(f"{value:.7g}") for value in values] for values in scores.tolist()]
        true = [[float(f"{value:.7g}") for value in values] for values in true]
        return list(zip(keys, true, found, errors, [0.0] * len(shown), loss, strict=True))
    targets = predictions.targets[chosen] > 0
    if predictions.task.problem_type == "multi_label_classification":
        decisions = predictions.task.decisions(predictions.logits[chosen])
        confidence = ((scores - targets.float()).abs() * (decisions != targets)).amax(dim=1)
    else:
        decisions = torch.zeros_like(targets)
        decisions[torch.arange(len(shown)), predictions.logits[chosen].argmax(dim=1)] = True
        confidence = scores.amax(dim=1)
    true, found = ([row.nonzero()[:, 0].tolist() for row in each] for each in (targets, decisions))
    true_scores = (scores * targets).sum(dim=1)
    return list(zip(keys, true, found, confidence.tolist(), true_scores.tolist(), loss, strict=True))
