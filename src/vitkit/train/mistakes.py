"""The part of a report that shows the pictures a model is wrong about."""

from html import escape

from PIL import Image

from vitkit.checkpoints import Checkpoint
from vitkit.data import Source
from vitkit.evaluate import Predictions, top1
from vitkit.train.attended import GRADIENT, ROLLOUT, attended, looks
from vitkit.train.page import picture

MOST = 24


def surest(predictions: Predictions) -> list[int]:
    """The pictures whose likeliest class is wrong, the most certain mistake first."""
    wrong = (~top1.hits(predictions, 1)) & (predictions.targets.sum(dim=1) > 0)
    certainty = predictions.scores.amax(dim=1).masked_fill(~wrong, -1.0)
    order: list[int] = certainty.argsort(descending=True, stable=True)[: int(wrong.sum())].tolist()
    return order


def section(source: Source, predictions: Predictions, best: Checkpoint | None = None) -> str:
    """The surest mistakes, each with what it is, what was said and, given the model, where that looked.

    `predictions` are of the source's pictures in order.
    """
    found = surest(predictions)
    if not found:
        return "<h2>Mistakes</h2><p>None: every held-out picture is classified as its label says.</p>"
    shown = found[:MOST]
    more = f", the {len(shown)} surest of {len(found)}" if len(found) > len(shown) else ""
    lit: list[Image.Image] = []
    where = ""
    if best is not None:
        lit = attended(best.model, best.processor, source)(shown)
        where = f" Beside each, it is bright where the model looked: {ROLLOUT if looks(best.model) else GRADIENT}."
    pairs = zip(shown, lit or [None] * len(shown), strict=True)
    cards = "".join(_mistake(source, predictions, index, seen) for index, seen in pairs)
    return (
        f"<h2>Its mistakes{more}</h2><p class='soft'>Sorted by how sure it was. Some of these may be wrong labels."
        f'{where}</p><div class="pictures{" wide" if lit else ""}">{cards}</div>'
    )


def _mistake(source: Source, predictions: Predictions, index: int, seen: Image.Image | None = None) -> str:
    names, scores = source.classes, predictions.scores[index]
    guess = int(predictions.logits[index].argmax())
    truth = [label for label, share in enumerate(predictions.targets[index].tolist()) if share > 0]
    true_names = ", ".join(names[label] for label in truth)
    score = sum(float(scores[label]) for label in truth)
    image = picture(source.read(index).image, alt=f"{true_names}, taken for {names[guess]}")
    if seen is not None:
        image = f'<div class="seen">{image}{picture(seen, alt="where the model looked")}</div>'
    sure = f"{float(scores[guess]):.0%}"
    said = f"<span>said</span> <span class='said'>{escape(names[guess])}</span> <span>{sure}</span>"
    return (
        f"<figure>{image}<figcaption><span>is</span> <b>{escape(true_names)}</b> <span>{score:.0%}</span><br>{said}<br>"
        f"<small>{escape(predictions.keys[index])}</small></figcaption></figure>"
    )
