"""The contract of objectives for every objective and model family; supervised losses against loops."""

import atexit
import dataclasses
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import oracle
from torch import nn

from vitkit import checkpoints, models, objectives
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import dino, distillation, mae, supervised
from vitkit.plugins.contracts import Check, NotApplicableError, title
from vitkit.plugins.contracts import objective as contract
from vitkit.plugins.contracts.objective import batch_for

ALL_PAIRS = [(objective, family) for objective in objectives.objectives() for family in models.families()]


@cache
def teacher(channels: int) -> Path:
    """A checkpoint of a tiny model with the classes of all tiny models."""
    folder = Path(tempfile.mkdtemp()) / "teacher"
    atexit.register(shutil.rmtree, folder.parent)
    model = models.build(dataclasses.replace(vit.TINY, channels=channels))
    processor = Processor.squash(32)
    labels = tuple(f"class {number}" for number in range(model.config.num_classes))
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=processor, labels=labels), folder)
    return folder


def subject(objective: str, family: str) -> contract.Subject:
    """An objective with a config that is small enough for tests."""
    config = objectives.objective(objective).Config()
    if isinstance(config, distillation.Config):
        channels = models.family(family).TINY.channels
        config = dataclasses.replace(config, teacher=str(teacher(channels)))
    if isinstance(config, dino.Config):  # the published head has 65536 outputs
        config = dataclasses.replace(config, outputs=64, hidden=32, bottleneck=16, local_crops=2)
    if isinstance(config, mae.Config):  # the published decoder has 25 million parameters
        config = dataclasses.replace(config, decoder_width=32, decoder_depth=2, decoder_heads=2)
    return contract.Subject(objective, config, family)


def build_error(objective: str, family: str) -> str | None:
    """Returns the error message of an objective for a family; None if it supports the family."""
    try:
        subject(objective, family).build()
    except ValueError as error:
        return str(error)
    return None


# These support every family, which the tests of `PAIRS` check.
FOR_ALL = ("supervised", "distillation", "dino")
UNSUPPORTED = {
    pair: message for pair in ALL_PAIRS if pair[0] not in FOR_ALL and (message := build_error(*pair)) is not None
}
PAIRS = [pair for pair in ALL_PAIRS if pair not in UNSUPPORTED]


@pytest.mark.parametrize(("objective", "family"), UNSUPPORTED)
def test_the_error_for_an_unsupported_model_names_it(objective: str, family: str) -> None:
    """Only objectives that mask tokens can reject a family, and they support the plain ViT."""
    assert family not in ("vit", "deit", "dino", "mae")
    message = UNSUPPORTED[objective, family]
    assert type(models.build(models.family(family).TINY)).__name__ in message
    assert len(message.split()) > 6


def is_fast(objective: str, family: str) -> bool:
    """Whether a pair runs by default: every family with supervised training."""
    return objective == "supervised"


@pytest.mark.parametrize(
    ("objective", "family"),
    [pair if is_fast(*pair) else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS if pair[1] != "vit"],
)
def test_two_steps_with_every_model(objective: str, family: str) -> None:
    contract.two_steps_change_the_loss(subject(objective, family))


@pytest.mark.parametrize(
    ("objective", "family"),
    [pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS if pair[1] != "vit"],
)
def test_the_state_dict_restores_the_objective(objective: str, family: str) -> None:
    contract.the_state_dict_restores_the_objective(subject(objective, family))


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize("name", objectives.objectives())
def test_every_objective_keeps_the_contract(name: str, check: Check) -> None:
    try:
        check(subject(name, "vit"))
    except NotApplicableError:
        assert name in ("supervised", "distillation"), "these two need labels"
    else:
        unlabelled = check is contract.labels_are_read_only_if_needed
        assert not (unlabelled and name in ("supervised", "distillation"))


def test_unknown_objectives_list_similar_names() -> None:
    with pytest.raises(ValueError, match="unknown objective 'supervise'; did you mean 'supervised'"):
        objectives.objective("supervise")
    with pytest.raises(ValueError, match="has no field 'objective'"):
        objectives.from_dict({})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_loss_matches_a_loop(smoothing: float) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64)
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.7, 0], [0, 1, 0]], dtype=torch.float64)
    total = 0.0
    for row in range(5):
        normal = math.log(sum(math.exp(logits[row, c]) for c in range(3)))
        for c in range(3):
            target = (1 - smoothing) * float(targets[row, c]) + smoothing / 3
            total -= target * (float(logits[row, c]) - normal)
    loss = supervised.cross_entropy(logits, targets, kind="softmax", label_smoothing=smoothing)
    assert loss.item() == pytest.approx(total / 5, rel=1e-12)


def test_softmax_loss_matches_torch_with_class_indices() -> None:
    logits, labels = torch.randn(6, 10), torch.arange(6)
    ours = supervised.cross_entropy(logits, torch.eye(10)[labels], kind="softmax", label_smoothing=0.2)
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, labels, label_smoothing=0.2))


def test_sigmoid_loss_matches_a_loop_and_sums_over_classes() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    targets = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.float64)
    total = 0.0
    for row in range(4):
        for c in range(3):
            probability = 1 / (1 + math.exp(-float(logits[row, c])))
            total -= math.log(probability) if targets[row, c] else math.log(1 - probability)
    assert supervised.cross_entropy(logits, targets, kind="sigmoid").item() == pytest.approx(total / 4, rel=1e-12)


def test_head_bias_sets_the_initial_bias() -> None:
    backbone = models.build(vit.TINY)
    supervised.build(supervised.Config(loss="sigmoid", head_bias=-10.0), backbone)
    assert isinstance(backbone.head, nn.Linear)
    assert backbone.head.bias.tolist() == [-10.0] * backbone.config.num_classes
    objective = supervised.build(supervised.Config(loss="sigmoid", head_bias=-10.0), backbone)
    # Initially only the term of the true class is large: -log(1/(1 + e^10)).
    assert objective(batch_for(backbone))["loss"].item() == pytest.approx(10.0, abs=0.01)


def test_positive_targets_can_be_set_to_one() -> None:
    """DeiT III's loss: timm's binary cross-entropy with a threshold of 0, averaged over images and classes."""
    timm_loss = oracle("timm.loss")
    model = models.build(dataclasses.replace(vit.TINY, num_classes=10))
    config = supervised.Config(loss="sigmoid", binarize_targets=True, average="elements")
    targets = torch.lerp(torch.eye(10)[[1, 2, 3]], torch.eye(10)[[3, 2, 9]], 0.2)
    batch = Batch(torch.randn(3, 3, 32, 32), targets, ("",) * 3)
    loss = objectives.build(config, model)(batch)["loss"]
    expected = timm_loss.BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(model(batch.images), targets)
    torch.testing.assert_close(loss, expected)
    for changes in ({"binarize_targets": True}, {"average": "elements"}):
        with pytest.raises(ValueError, match="need loss='sigmoid', not 'softmax'"):
            supervised.Config(**changes)  # type: ignore[arg-type]


def test_invalid_configs_and_models_without_head_are_rejected() -> None:
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        supervised.Config(label_smoothing=1.0)
    headless = models.build(vit.Config(**{**vars(vit.TINY), "num_classes": 0}))
    with pytest.raises(ValueError, match="needs a model with a head"):
        supervised.build(supervised.Config(), headless)
