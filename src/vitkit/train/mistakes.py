"""The part of a report that shows the pictures a model is wrong about."""

from html import escape

from vitkit.data import Source
from vitkit.evaluate import Predictions, top1
from vitkit.train.page import picture

MOST = 24


def surest(predictions: Predictions) -> list[int]:
    """The pictures whose likeliest class is wrong, the most certain mistake first."""
    wrong = (~top1.hits(predictions, 1)) & (predictions.targets.sum(dim=1) > 0)
    certainty = predictions.scores.amax(dim=1).masked_fill(~wrong, -1.0)
    order: list[int] = certainty.argsort(descending=True, stable=True)[: int(wrong.sum())].tolist()
    return order


def section(source: Source, predictions: Predictions) -> str:
    """The surest mistakes, each with what it is and what was said; `predictions` are of the source's pictures in
    order.
    """
    found = surest(predictions)
    if not found:
        return "<h2>Mistakes</h2><p>None: every held-out picture is classified as its label says.</p>"
    shown = found[:MOST]
    more = f", the {len(shown)} surest of {len(found)}" if len(found) > len(shown) else ""
    cards = "".join(_mistake(source, predictions, index) for index in shown)
    return (
        f"<h2>Its mistakes{more}</h2><p class='soft'>Sorted by how sure it was. Some of these may be wrong labels.</p>"
        f'<div class="pictures">{cards}</div>'
    )


def _mistake(source: Source, predictions: Predictions, index: int) -> str:
    names, scores = source.classes, predictions.scores[index]
    guess = int(predictions.logits[index].argmax())
    truth = [label for label, share in enumerate(predictions.targets[index].tolist()) if share > 0]
    true_names = ", ".join(names[label] for label in truth)
    score = sum(float(scores[label]) for label in truth)
    image = picture(source.read(index).image, alt=f"{true_names}, taken for {names[guess]}")
    sure = f"{float(scores[guess]):.0%}"
    said = f"<span>said</span> <span class='said'>{escape(names[guess])}</span> <span>{sure}</span>"
    return (
        f"<figure>{image}<figcaption><span>is</span> <b>{escape(true_names)}</b> <span>{score:.0%}</span><br>{said}<br>"
        f"<small>{escape(predictions.keys[index])}</small></figcaption></figure>"
    )
