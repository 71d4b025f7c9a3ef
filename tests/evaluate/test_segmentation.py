"""Masks of attention against objects: the Jaccard index by loops over pixels, and masks laid over what a model sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import evaluate, models
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.evaluate import Subject, segmentation
from vitkit.explain.attention import attention_maps
from vitkit.models import resnet, vit

PROCESSOR = Processor.squash(32)


def test_the_index_by_loops_over_pixels() -> None:
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 7, 255], size=(6, 9))
    guess = random.random((3, 6, 9)) < 0.4
    found = segmentation.jaccard(guess, truth)
    for row, number in enumerate([1, 2, 7]):
        for column in range(3):
            both = either = 0
            for r in range(6):
                for c in range(9):
                    if truth[r, c] == 255:
                        continue
                    drawn, given = truth[r, c] == number, guess[column, r, c]
                    both += drawn and given
                    either += drawn or given
            assert found[row, column] == pytest.approx(both / either, abs=1e-12)
    assert found.shape == (3, 3)
    assert segmentation.jaccard(guess, np.zeros((6, 9), int)).shape == (0, 3)


def test_the_best_head_of_each_object_then_objects_then_pictures() -> None:
    one = np.array([[0.5, 0.1, 0.3], [0.2, 0.6, 0.4]])  # two objects; two heads and their mean
    other = np.array([[0.9, 0.7, 0.8]])
    found = segmentation.numbers([one, other])
    assert found["jaccard"] == pytest.approx(((0.5 + 0.6) / 2 + 0.9) / 2)
    assert found["head0"] == pytest.approx((0.35 + 0.9) / 2)
    assert found["mean_head"] == pytest.approx((found["head0"] + found["head1"]) / 2)
    assert found["all_heads"] == pytest.approx((0.35 + 0.8) / 2)
    assert (found["objects"], found["pictures"]) == (3, 2)


def subject(keys: tuple[str, ...], model: models.Backbone | None = None) -> Subject:
    torch.manual_seed(0)
    images = torch.randn(len(keys), 3, 32, 32)
    batch = Batch(images, torch.ones(len(keys), 1), keys)
    return Subject(model or models.build(vit.TINY), lambda: [batch], ("all",), processor=PROCESSOR)


def test_an_object_that_is_where_a_head_looks_is_found_whole(tmp_path: Path) -> None:
    """Masks drawn from the model's own attention: the index of that head is 1, of a picture of another size too."""
    judged = subject(("a/1.jpg", "b/2.jpg", "c/none.jpg"))
    [batch] = judged.batches()
    maps = attention_maps(judged.model, batch.images, [-1]).maps[:, 0]
    for row, (name, head) in enumerate((("a/1.png", 0), ("2.png", 1))):
        flat = maps[row, head].flatten()
        # As published: the lightest patches go while what is gone stays within 40 %.
        order, gone, kept = flat.argsort(), 0.0, torch.ones_like(flat)
        for patch in order:
            gone += float(flat[patch] / flat.sum())
            if gone > 0.4:
                break
            kept[patch] = 0
        drawn = (kept.view(4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1) * 3).byte()  # 64 pixels a side
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(drawn.numpy()).save(tmp_path / name)
    found = evaluate.evaluate(judged, [f"segmentation:{tmp_path}"])
    name = f"segmentation:{tmp_path.stem}"
    assert found[f"{name}.jaccard"] == 1.0
    assert found[f"{name}.pictures"] == 2
    assert 0 < found[f"{name}.mean_head"] <= 1


def test_masks_are_cut_as_the_pictures_are_and_numbers_never_mix(tmp_path: Path) -> None:
    numbers = np.zeros((40, 80), np.uint8)
    numbers[:, 20:60] = 7
    numbers[:, 40:44] = 255
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.flatten().tolist())
    palette.save(tmp_path / "a.png")
    read = segmentation.read_mask(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read), numbers)
    # The middle square of 40 of the 80 columns, made 32: all of it is the object, or void.
    seen = segmentation.view(read, Processor.crop(32, 1.0))
    assert set(np.unique(seen)) == {7, 255}
    assert seen.shape == (32, 32)
    # A crop larger than the picture is filled up with what is not judged.
    plain = Processor(size=(48, 48), resize="none", center_crop="torchvision")
    assert (segmentation.view(Image.fromarray(numbers[:, :40]), plain)[:4] == 255).all()


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes an argument: write segmentation:MASKS"):
        evaluate.evaluator("segmentation")
    with pytest.raises(ValueError, match="no picture has a mask with an object"):
        segmentation.evaluate(subject(("a/1.jpg",)), str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"has colours \(mode RGB\)"):
        segmentation.evaluate(subject(("a/1.jpg",)), str(tmp_path))
    Image.new("L", (8, 8), 1).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="no attention between patches"):
        segmentation.evaluate(subject(("a/1.jpg",), models.build(resnet.TINY)), str(tmp_path))
    without = subject(("a/1.jpg",))
    without.processor = None
    with pytest.raises(ValueError, match="needs the processor"):
        segmentation.evaluate(without, str(tmp_path))
