"""A model to look at and pictures to show it, for the exhibits that are drawn of a model."""

from itertools import islice
from pathlib import Path

from vitkit import explain
from vitkit.data import splits
from vitkit.explain import Explanation, subject
from vitkit.paper.small import Small
from vitkit.predict import Predictor, load

STEPS = 400


def trained(small: Small, name: str, model: object, **changes: object) -> Path:
    """A model trained on all pictures at hand, with the first seed."""
    given = {"steps": small.length(STEPS), **changes}
    return small.train(small.run(name, model, data=small.data, seed=0, **given)).folder / "best"  # type: ignore[arg-type]


def shown(small: Small, checkpoint: str | Path, number: int) -> explain.Subject:
    """A checkpoint with the first pictures of every so many of those at hand."""
    classifier = load(str(checkpoint))
    placed = Predictor(classifier.model, classifier.processor, device=small.device)
    found = splits(small.data)
    source = found.get("val") or found.get("test") or next(iter(found.values()))
    step = max(1, len(source) // number)
    pictures = [source.read(index).image for index in islice(range(0, len(source), step), number)]
    return subject.read(placed.model, classifier.processor, pictures, classifier.labels)


def given_or_trained(small: Small) -> str | Path:
    """The checkpoint to look at: the one that was named, or a plain ViT trained on the pictures at hand."""
    return small.model or trained(small, "seen", small.vit())


def explained(method: str, shown: explain.Subject, **options: object) -> Explanation:
    """As `vitkit explain`."""
    return explain.explain(method, shown, **options)


def whose(small: Small) -> str:
    """Whose drawing it is."""
    if small.model:
        return f"Drawn of {small.model}."
    return (
        f"Drawn of a ViT of 0.1 million parameters trained here on '{small.data}'; the paper's are ViT-L and ViT-B "
        "from ImageNet-21k and JFT-300M. `--model` takes any checkpoint of a ViT."
    )
