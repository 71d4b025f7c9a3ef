"""The training loop equals a hand-written loop bit for bit; gradient accumulation; values that are not finite."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from vitkit import models
from vitkit.data import train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, training_batches
from vitkit.training import Run, TrainingStopped
from vitkit.training.loop import Training, backward, fit, split, step_seed, update
from vitkit.training.setup import build_training


def batches(run: Run, consumed: int = 0) -> Iterator[Batch]:
    training, _ = train_and_val(run.data.source, held_out=run.data.held_out)
    stream = Stream(batch_size=run.batch_size, seed=run.seed)
    return training_batches(training, Transform(run.processor, run.augment), stream, consumed=consumed)


def start(run: Run) -> Training:
    return build_training(run, run.steps or 0, torch.device("cpu"))


def test_the_loop_equals_a_hand_written_loop(small_run: Callable[..., Run]) -> None:
    run = small_run(steps=15, batch_size=16)
    training, losses = start(run), []
    fit(training, batches(run), lambda scalars, _: losses.append(scalars["loss"]) is not None)

    torch.manual_seed(run.seed)
    model = models.build(run.model).train()
    kernels = [each for name, each in model.named_parameters() if name.endswith("weight") and each.ndim > 1]
    rest = [each for name, each in model.named_parameters() if not (name.endswith("weight") and each.ndim > 1)]
    optimizer = torch.optim.AdamW([{"params": kernels, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    stream, expected = batches(run), []
    for step in range(15):
        batch = next(stream)
        torch.manual_seed(step_seed(run.seed, step, 0))
        progress = max(0, step - 3) / 12
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * progress)) * min(1.0, step / 3)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch.images), batch.targets.argmax(dim=1), label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())
    # The objective computes the loss from class probabilities, so its last bit and that of later steps may differ.
    assert losses == pytest.approx(expected, rel=2e-3)
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-6)


def test_the_loop_equals_the_same_hand_written_steps_bit_for_bit(small_run: Callable[..., Run]) -> None:
    run = small_run(steps=15)
    training, losses = start(run), []
    fit(training, batches(run), lambda scalars, _: losses.append(scalars["loss"]) is not None)

    other, stream, expected = start(run), batches(run), []
    other.objective.train()
    for step in range(15):
        batch = next(stream)
        torch.manual_seed(step_seed(run.seed, step, 0))
        for group in other.optimizer.param_groups:
            group["lr"] = 1e-2 * (0.5 * (1.0 + math.cos(math.pi * (max(0, step - 3) / 12))) * min(1.0, step / 3))
        loss = other.objective(batch)["loss"]
        other.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.objective.parameters(), 1.0)
        other.optimizer.step()
        expected.append(loss.item())
    assert losses == expected
    for one, two in zip(training.objective.parameters(), other.objective.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_the_loss_falls(small_run: Callable[..., Run]) -> None:
    no_dropout = {f"model__{name}": 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth")}
    run = small_run(steps=150, batch_size=64, augment__flip=False, **no_dropout)
    training, scalars = start(run), []
    fit(training, batches(run), lambda each, _: scalars.append(each) is not None)
    assert scalars[0]["loss"] == pytest.approx(math.log(10), rel=1e-5)  # a zero head predicts 1/10 for every class
    assert sum(each["loss"] for each in scalars[-10:]) / 10 < 1.2
    assert scalars[0]["lr"] == 0.0


def test_accumulated_gradients_are_those_of_the_full_batch(small_run: Callable[..., Run]) -> None:
    run = small_run(model__dropout=0.0, model__attention_dropout=0.0, model__stochastic_depth=0.0)
    batch, gradients = next(batches(run)), []
    for parts in (1, 2, 4, 28):
        objective = start(run).objective.double()
        with torch.no_grad():
            objective.backbone.head.weight.add_(0.1)
        double = Batch(batch.images.double(), batch.targets.double(), batch.keys)
        scalars = backward(objective, double, parts)
        gradients.append([scalars["loss"], *(parameter.grad for parameter in objective.parameters())])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


def test_a_split_batch_has_all_samples(small_run: Callable[..., Run]) -> None:
    batch = next(batches(small_run()))
    parts = split(batch, 4)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert tuple(key for part in parts for key in part.keys) == batch.keys


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nonfinite_value_stops_before_the_update_and_names_the_batch(
    small_run: Callable[..., Run], where: str
) -> None:
    run = small_run()
    training, stream = start(run), batches(run)
    update(training, next(stream))
    before = [parameter.detach().clone() for parameter in training.objective.parameters()]
    saved = [value.clone() for state in training.optimizer.state.values() for value in state.values()]
    batch = next(stream)
    if where == "loss":
        batch.images[3, 0, 0, 0] = math.nan
    else:
        training.objective.backbone.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingStopped, match=rf"{where}.* not finite in step 0; no weights were updated") as error:
        update(training, batch)
    assert all(key in str(error.value) for key in batch.keys)
    for one, two in zip(before, training.objective.parameters(), strict=True):
        assert torch.equal(one, two)
    after = [value for state in training.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(one, two) for one, two in zip(saved, after, strict=True))


def test_every_step_has_its_own_seed() -> None:
    seeds = {step_seed(seed, step, rank) for seed in (0, 1) for step in range(5) for rank in (0, 1)}
    assert len(seeds) == 20
