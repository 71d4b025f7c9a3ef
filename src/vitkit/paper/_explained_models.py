"""Trains or loads the models and images for the experiments that explain a model."""

from itertools import islice
from pathlib import Path

from vitkit.data import splits
from vitkit.data.augment import read_options
from vitkit.explanation import ExplainInputs, _inputs
from vitkit.inference import Predictor, load
from vitkit.paper.small_scale import SmallScale

STEPS = 400


def train_model(small: SmallScale, name: str, model: object, **changes: object) -> Path:
    """Trains a model on all classes of the dataset with seed 0, and returns the folder of its checkpoint."""
    settings = {"steps": small.length(STEPS), **changes}
    return small.train(small.run(name, model, data=small.data, seed=0, **settings)).folder / "best"  # type: ignore[arg-type]


def load_subject(small: SmallScale, checkpoint: str | Path, num_images: int) -> ExplainInputs:
    """Loads a checkpoint and `num_images` images, evenly chosen from the dataset."""
    classifier = load(str(checkpoint))
    placed = Predictor(classifier.model, classifier.processor, device=small.device)
    sources = splits(small.data)
    source = sources.get("val") or sources.get("test") or next(iter(sources.values()))
    step = max(1, len(source) // num_images)
    options = read_options(classifier.processor)
    images = [source.read(index, **options).image for index in islice(range(0, len(source), step), num_images)]
    return _inputs.read(placed.model, classifier.processor, images, classifier.labels)


def given_or_trained(small: SmallScale) -> str | Path:
    """Returns the checkpoint given by the user, or trains a plain ViT on the dataset of the study."""
    return small.model or train_model(small, "seen", small.vit())


def model_remark(small: SmallScale) -> str:
    """Returns a remark that names the explained model."""
    if small.model:
        return f"Model: {small.model}."
    return (
        f"Model: a ViT of 0.1 million parameters, trained in this study on '{small.data}'; the paper uses ViT-L and "
        "ViT-B from ImageNet-21k and JFT-300M. `--model` takes any ViT checkpoint."
    )
