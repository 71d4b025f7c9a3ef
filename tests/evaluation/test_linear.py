"""DINO's linear protocol: SGD equals torch's for each learning rate; features equal those of each block."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from vitkit import evaluation, models
from vitkit.data.loader import Batch
from vitkit.evaluation import ModelOutputs, linear
from vitkit.models import axial, bit, vit


def clouds(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=random)
    centers = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]], dtype=torch.float64)
    return centers[labels] + torch.randn(num, 4, generator=random, dtype=torch.float64), labels


def test_each_learning_rate_equals_torch_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "BATCH", 16)
    monkeypatch.setattr(linear, "EPOCHS", 3)
    x, labels = clouds(50, 0)
    rates = (0.1, 1.0, 5.0)
    heads = linear.train_heads(x, labels, 3, rates)
    for number, rate in enumerate(rates):
        random = torch.Generator().manual_seed(linear.SEED)
        layer = nn.Linear(4, 3).double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(3, 4, generator=random).double() * 0.01)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
        steps, step = 3 * 4, 0
        for _ in range(3):
            for rows in torch.randperm(50, generator=random).split(16):
                for group in optimizer.param_groups:
                    group["lr"] = rate * 16 / 256 * (1 + math.cos(math.pi * step / steps)) / 2
                # As in torch and in the original, the momentum buffer is multiplied by the current learning rate.
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(x[rows]), labels[rows]).backward()
                optimizer.step()
                step += 1
        torch.testing.assert_close(heads.weight[number], layer.weight.detach(), atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(heads.bias[number], layer.bias.detach(), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("family", [vit, axial], ids=["vit", "axial"])
def test_features_are_block_outputs_after_the_norm(family: object) -> None:
    torch.manual_seed(0)
    model = models.build(family.TINY).eval()  # type: ignore[attr-defined]
    assert isinstance(model, models.TokenBackbone)
    images = torch.randn(3, 3, *model.config.image_size)
    with torch.no_grad():
        vectors, mean = linear.block_vectors(model, images, 2)
        embedded = model.embed(images)
        tokens, expected = embedded.tokens, []
        for block in model.blocks:
            tokens = block(tokens, embedded.grid) if family is axial else block(tokens)
            normed = embedded.with_tokens(model.norm(tokens))  # type: ignore[operator]
            expected.append(normed.class_token if normed.num_special else normed.patches.mean(dim=1))
    torch.testing.assert_close(vectors, torch.stack(expected[-2:], dim=1))
    torch.testing.assert_close(mean, embedded.with_tokens(model.norm(tokens)).patches.mean(dim=1))  # type: ignore[operator]


def image_batches(num: int, seed: int) -> Iterator[Batch]:
    """Yields noisy images of one color; the class is the bright channel."""
    random = torch.Generator().manual_seed(seed)
    for start in range(0, num, 8):
        labels = torch.randint(3, (8,), generator=random)
        images = 0.3 * torch.randn(8, 3, 32, 32, generator=random) + torch.eye(3)[labels][:, :, None, None]
        yield Batch(images, torch.eye(3)[labels], tuple(map(str, range(start, start + 8))))


def test_linear_classifies_colors_and_reports_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "EPOCHS", 20)
    torch.manual_seed(0)
    subject = ModelOutputs(
        models.build(vit.TINY), lambda: image_batches(80, 1), ("r", "g", "b"), training=lambda: image_batches(160, 0)
    )
    result = evaluation.evaluate(subject, ["linear:2"])
    assert result["linear:2.accuracy"] > 0.9
    assert result["linear:2.blocks"] in (1, 2)
    assert result["linear:2.rate"] in linear.RATES
    features = linear.extract_features(subject.model, image_batches(16, 1), 9)  # there are two blocks
    assert features.vectors(2, mean_patch=True).shape == (16, 3 * 32)
    assert torch.equal(features.vectors(1, mean_patch=False), features.blocks[:, -1])


def test_missing_images_and_wrong_models_raise() -> None:
    def subject(model: models.Backbone, **more: object) -> ModelOutputs:
        return ModelOutputs(model, lambda: image_batches(8, 1), ("r", "g", "b"), **more)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="labeled training images, but none were given"):
        linear.evaluate(subject(models.build(vit.TINY)))
    with pytest.raises(ValueError, match="linear is 'four'; expected a number of blocks"):
        linear.evaluate(subject(models.build(vit.TINY), training=lambda: image_batches(8, 1)), "four")
    with pytest.raises(ValueError, match="has none; use probe"):
        linear.evaluate(subject(models.build(bit.TINY), training=lambda: image_batches(8, 1)))
