"""Color jitter, 3-Augment, erasing and presets against the originals; configs to JSON and back."""

import random

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image, ImageFilter, ImageOps

from vitkit import config
from vitkit.data.augment import Augment, Transform, augmented, presets
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing, erase
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter, color_jitter, shift_hue, three_augment
from vitkit.data.augment.randaugment import RandAugment, randaugment
from vitkit.data.processor import Processor


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


class Fixed:
    """Random generator with fixed numbers that does not permute."""

    def __init__(self, *numbers: float):
        self.numbers, self.ranges = list(numbers), []

    def permutation(self, names: list[str]) -> list[str]:
        return names

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return self.numbers.pop(0)

    def integers(self, high: int) -> int:
        return int(self.numbers.pop(0))


def test_color_jitter_equals_torchvision(image: Image.Image) -> None:
    functional = oracle("torchvision.transforms.functional")
    jitter = Jitter(brightness=0.4, contrast=1.5, saturation=0.3, hue=0.1)
    random = Fixed(1.2, 0.8, 0.75, -0.06)
    ours = color_jitter(image, jitter, random)  # type: ignore[arg-type]
    theirs = functional.adjust_contrast(functional.adjust_brightness(image, 1.2), 0.8)
    theirs = functional.adjust_hue(functional.adjust_saturation(theirs, 0.75), -0.06)
    assert ours.tobytes() == theirs.tobytes()
    assert random.ranges == [(0.6, 1.4), (0.0, 2.5), (0.7, 1.3), (-0.1, 0.1)]
    for amount in (-0.5, -0.2, 0.0, 0.3, 0.5):
        assert shift_hue(image, amount).tobytes() == functional.adjust_hue(image, amount).tobytes()
    orders = {color_jitter(image, jitter, np.random.default_rng(seed)).tobytes() for seed in range(5)}
    assert len(orders) == 5


def test_three_augment_is_one_of_three(image: Image.Image) -> None:
    expected = [
        image.convert("L").convert("RGB"),
        ImageOps.solarize(image),
        image.filter(ImageFilter.GaussianBlur(1.3)),
    ]
    for choice, result in enumerate(expected):
        random = Fixed(choice, 1.3)
        assert three_augment(image, random).tobytes() == result.tobytes()  # type: ignore[arg-type]
    assert random.ranges == [(0.1, 2.0)]
    gray = [np.ptp(np.asarray(three_augment(image, np.random.default_rng(s))), axis=2).max() == 0 for s in range(600)]
    assert 150 < sum(gray) < 250


def boxes(images: np.ndarray) -> np.ndarray:
    """Return the changed area and the log of height over width of each image with one box."""
    found = []
    for each in images:
        rows, columns = np.flatnonzero((each != 0).any(axis=(0, 2))), np.flatnonzero((each != 0).any(axis=(0, 1)))
        if rows.size:
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            found.append((height * width, np.log(height / width)))
    return np.array(found)


def test_erasing_has_the_distribution_of_timm() -> None:
    random_erasing = oracle("timm.data.random_erasing")
    ours = np.stack([
        erase(np.zeros((3, 32, 32), np.float32), Erasing(probability=0.25), np.random.default_rng(seed))
        for seed in range(3000)
    ])  # fmt: skip
    random.seed(0)
    torch.manual_seed(0)
    eraser = random_erasing.RandomErasing(probability=0.25, mode="pixel", device="cpu")
    theirs = np.stack([eraser(torch.zeros(3, 32, 32)).numpy() for _ in range(3000)])
    one, other = boxes(ours), boxes(theirs)
    assert abs(len(one) / 3000 - 0.25) < 0.03
    assert abs(len(one) - len(other)) < 120
    # Areas are about 170 +- 90, log aspect ratios 0 +- 0.65: four standard errors of 750 boxes each.
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < [18, 0.14]).all()
    assert (np.abs(one.std(axis=0) - other.std(axis=0)) < [10, 0.07]).all()
    noise = ours[ours != 0]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_erasing_fill_modes() -> None:
    random = np.random.default_rng(0)
    ones = np.ones((3, 16, 16), np.float32)
    zeroed = erase(ones.copy(), Erasing(probability=1.0, fill="zero"), random)
    assert set(np.unique(zeroed)) == {0.0, 1.0}
    colors = erase(ones.copy(), Erasing(probability=1.0, fill="channel"), random)
    assert all(np.unique(channel).size == 2 for channel in colors)
    assert np.unique(colors).size == 4
    many = [erase(ones.copy(), Erasing(probability=1.0, count=3, fill="zero"), random) for _ in range(50)]
    assert len({int((each == 0).sum()) for each in many}) > 20
    assert erase(ones, Erasing(), random) is ones
    assert (ones == 1).all()


def test_erasing_follows_normalization(image: Image.Image) -> None:
    transform = Transform(Processor.squash(16), Augment(erasing=Erasing(probability=1.0, fill="zero")))
    plain, erased = transform(image), transform(image, np.random.default_rng(0))
    assert ((erased == 0) | (erased == plain)).all()
    assert (erased == 0).all(axis=0).any()


def test_augreg_presets() -> None:
    table = {name: presets.augreg(name) for name in presets.AUGREG}
    assert [(each.randaugment.layers, each.randaugment.magnitude, each.mixing.mixup) for each in table.values()] == [
        (0, 0, 0), (2, 0, 0), (2, 10, 0.2), (2, 15, 0.2), (2, 15, 0.5), (2, 20, 0.5), (2, 20, 0.8),
    ]  # fmt: skip
    for each in table.values():
        assert each.flip
        assert (each.crop.kind, each.crop.resampling) == ("tensorflow", "bilinear_aliased")
        assert each.randaugment.contrast == "original"
        assert each.mixing.ratio == "larger"
    with pytest.raises(ValueError, match="unknown augmentation 'light0'; did you mean 'light"):
        presets.augreg("light0")
    with pytest.raises(ValueError, match="unknown Inception crop 'jax'"):
        presets.inception("jax")
    assert presets.deit3().repeats == 3


@pytest.mark.parametrize("name", [*presets.AUGREG, "deit3"])
def test_a_config_round_trips_through_json_and_is_deterministic(name: str, image: Image.Image) -> None:
    augment = presets.deit3() if name == "deit3" else presets.augreg(name)
    assert config.from_dict(Augment, config.to_dict(augment)) == augment
    transform = Transform(Processor.squash(16), augment)
    one, again, other = (transform(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (3, 16, 16)


def test_old_configs_load_and_dotted_overrides_apply() -> None:
    old = {"rotate": 12.0, "shift": 0.08, "zoom": 0.1, "flip": False}
    assert config.from_dict(Augment, old) == Augment(rotate=12.0, shift=0.08, zoom=0.1)
    changes = {
        "randaugment.layers": "2",
        "mixing.cutmix": "1",
        "crop.kind": "torchvision",
        "crop.area": "[0.3, 1]",
        "erasing.probability": "0.25",
        "jitter.hue": "0.1",
        "repeats": "3",
    }
    assert config.override(Augment(), changes) == Augment(
        randaugment=RandAugment(layers=2),
        mixing=Mixing(cutmix=1.0),
        crop=Crop(kind="torchvision", area=(0.3, 1.0)),
        erasing=Erasing(probability=0.25),
        jitter=Jitter(hue=0.1),
        repeats=3,
    )


def test_operations_are_three_augment_randaugment_jitter_in_order(image: Image.Image) -> None:
    augment = Augment(three_augment=True, jitter=Jitter(brightness=0.9), randaugment=RandAugment(layers=1))
    random, again = np.random.default_rng(8), np.random.default_rng(8)
    expected = color_jitter(randaugment(three_augment(image, again), augment.randaugment, again), augment.jitter, again)
    assert augmented(image, augment, random).tobytes() == expected.tobytes()


def test_invalid_settings_raise() -> None:
    gray = Processor(mean=(0.5,), std=(0.5,), fill=(0,))
    for augment in (Augment(three_augment=True), Augment(jitter=Jitter(hue=0.1)), presets.augreg("light1")):
        with pytest.raises(ValueError, match="the processor is grayscale"):
            Transform(gray, augment)
    for make, message in (
        (lambda: Jitter(hue=0.6), "jitter.hue"),
        (lambda: Erasing(probability=1.1), "erasing: probability is 1.1"),
        (lambda: Erasing(area=(0.5, 0.2)), "erasing: probability is 0.0 and area"),
        (lambda: Erasing(count=0), "count is 0"),
        (lambda: Augment(repeats=0), "augment.repeats is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
