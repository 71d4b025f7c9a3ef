"""Segmentation by attention: the Jaccard index equals loops over pixels, and masks are preprocessed like images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import evaluation, models
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.evaluation import ModelOutputs, segmentation
from vitkit.explanation.attention import attention_maps
from vitkit.models import bit, vit

PROCESSOR = Processor.squash(32)


def test_the_jaccard_index_equals_loops_over_pixels() -> None:
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 7, 255], size=(6, 9))
    predicted = random.random((3, 6, 9)) < 0.4
    result = segmentation.jaccard(predicted, truth)
    for row, number in enumerate([1, 2, 7]):
        for column in range(3):
            both = either = 0
            for r in range(6):
                for c in range(9):
                    if truth[r, c] == 255:
                        continue
                    is_object, is_predicted = truth[r, c] == number, predicted[column, r, c]
                    both += is_object and is_predicted
                    either += is_object or is_predicted
            assert result[row, column] == pytest.approx(both / either, abs=1e-12)
    assert result.shape == (3, 3)
    assert segmentation.jaccard(predicted, np.zeros((6, 9), int)).shape == (0, 3)


def test_means_over_objects_and_images() -> None:
    one = np.array([[0.5, 0.1, 0.3], [0.2, 0.6, 0.4]])  # two objects; two heads and the mean map
    other = np.array([[0.9, 0.7, 0.8]])
    result = segmentation.summarize([one, other])
    assert result["jaccard"] == pytest.approx(((0.5 + 0.6) / 2 + 0.9) / 2)
    assert result["head0"] == pytest.approx((0.35 + 0.9) / 2)
    assert result["mean_head"] == pytest.approx((result["head0"] + result["head1"]) / 2)
    assert result["all_heads"] == pytest.approx((0.35 + 0.8) / 2)
    assert (result["objects"], result["images"]) == (3, 2)


def subject(keys: tuple[str, ...], model: models.Backbone | None = None) -> ModelOutputs:
    torch.manual_seed(0)
    images = torch.randn(len(keys), 3, 32, 32)
    batch = Batch(images, torch.ones(len(keys), 1), keys)
    return ModelOutputs(model or models.build(vit.TINY), lambda: [batch], ("all",), processor=PROCESSOR)


def test_masks_made_from_attention_have_a_jaccard_index_of_one(tmp_path: Path) -> None:
    """The masks are made from the attention of one head; their size differs from that of the image."""
    inputs = subject(("a/1.jpg", "b/2.jpg", "c/none.jpg"))
    [batch] = inputs.batches()
    maps = attention_maps(inputs.model, batch.images, [-1]).maps[:, 0]
    for row, (name, head) in enumerate((("a/1.png", 0), ("2.png", 1))):
        flat = maps[row, head].flatten()
        # As published: patches are removed in ascending order while their sum is at most 40 %.
        order, removed, mask = flat.argsort(), 0.0, torch.ones_like(flat)
        for patch in order:
            removed += float(flat[patch] / flat.sum())
            if removed > 0.4:
                break
            mask[patch] = 0
        pixels = (mask.view(4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1) * 3).byte()  # 64 pixels a side
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    result = evaluation.evaluate(inputs, [f"segmentation:{tmp_path}"])
    name = f"segmentation:{tmp_path.stem}"
    assert result[f"{name}.jaccard"] == 1.0
    assert result[f"{name}.images"] == 2
    assert 0 < result[f"{name}.mean_head"] <= 1


def test_masks_are_cropped_like_images_without_interpolation(tmp_path: Path) -> None:
    numbers = np.zeros((40, 80), np.uint8)
    numbers[:, 20:60] = 7
    numbers[:, 40:44] = 255
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.flatten().tolist())
    palette.save(tmp_path / "a.png")
    read = segmentation.read_mask(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read), numbers)
    # The central crop has 40 of the 80 columns, all of them object or void.
    cropped = segmentation.preprocess_mask(read, Processor.crop(32, 1.0))
    assert set(np.unique(cropped)) == {7, 255}
    assert cropped.shape == (32, 32)
    # A crop larger than the image is padded with void.
    plain = Processor(size=(48, 48), resize="none", center_crop="torchvision")
    assert (segmentation.preprocess_mask(Image.fromarray(numbers[:, :40]), plain)[:4] == 255).all()


def test_wrong_masks_and_models_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs an argument; write segmentation:MASKS"):
        evaluation.evaluator("segmentation")
    with pytest.raises(ValueError, match="matches an image and contains an object"):
        segmentation.evaluate(subject(("a/1.jpg",)), str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"has the mode RGB"):
        segmentation.evaluate(subject(("a/1.jpg",)), str(tmp_path))
    Image.new("L", (8, 8), 1).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="no attention between patches"):
        segmentation.evaluate(subject(("a/1.jpg",), models.build(bit.TINY)), str(tmp_path))
    without = subject(("a/1.jpg",))
    without.processor = None
    with pytest.raises(ValueError, match="needs an image processor"):
        segmentation.evaluate(without, str(tmp_path))
