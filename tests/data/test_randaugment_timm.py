"""timm's RandAugment: each operation against timm at the same magnitudes."""

import random as standard

import numpy as np
import pytest
from oracles import oracle
from PIL import Image

from vitkit.data.augment import Augment, augmented, randaugment_timm
from vitkit.data.augment.presets import RAND_M9, deit
from vitkit.data.augment.randaugment import RandAugment, randaugment

MAGNITUDES = [0.0, 0.3, 2.5, 5.0, 7.4, 9.0, 10.0]


def make_image(rows: int = 40, columns: int = 56) -> Image.Image:
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", randaugment_timm.OPERATIONS)
def test_each_operation_equals_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = oracle("timm.data.auto_augment")
    hparams = {"img_mean": randaugment_timm.FILL, "interpolation": Image.Resampling.BICUBIC, "translate_const": 100}
    image = make_image()
    for magnitude in MAGNITUDES:
        if (name, magnitude) == (
            "PosterizeIncreasing",
            10.0,
        ):  # no bits: black in old versions of Pillow, an error in new ones
            assert randaugment_timm.OPERATIONS[name](image, magnitude).getextrema() == ((0, 0),) * 3
            continue
        for sign, chance in ((1.0, 0.1), (-1.0, 0.9)):
            monkeypatch.setattr(standard, "random", lambda chance=chance: chance)
            expected = theirs.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)(image)
            found = randaugment_timm.OPERATIONS[name](image, sign * magnitude)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=f"{name} {sign * magnitude}")


def test_the_set_of_operations_is_that_of_timm() -> None:
    theirs = oracle("timm.data.auto_augment")
    hparams = {"img_mean": randaugment_timm.FILL, "translate_const": 100}
    made = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)
    assert [operation.name for operation in made.ops] == list(randaugment_timm.OPERATIONS)
    assert {(each.prob, each.magnitude, each.magnitude_std, each.magnitude_max) for each in made.ops} == {
        (randaugment_timm.PROBABILITY, RAND_M9.magnitude, RAND_M9.noise, None)
    }
    assert made.num_layers == RAND_M9.layers


def test_distribution_of_operations_and_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    magnitudes: dict[str, list[float]] = {name: [] for name in randaugment_timm.OPERATIONS}

    def note(name: str) -> object:
        return lambda image, magnitude: (magnitudes[name].append(magnitude), image)[1]

    for name in magnitudes:
        monkeypatch.setitem(randaugment_timm.OPERATIONS, name, note(name))
    random, image = np.random.default_rng(0), make_image()
    for _ in range(3000):
        randaugment(image, RAND_M9, random)
    counts = [len(each) for each in magnitudes.values()]
    assert abs(sum(counts) - 3000) < 4 * 39  # half of six thousand
    assert all(abs(count - 200) < 60 for count in counts)
    sampled = np.abs(np.concatenate(list(magnitudes.values())))
    assert sampled.max() <= 10.0
    assert abs(sampled.mean() - 9.0) < 0.05
    assert abs(sampled.std() - 0.5) < 0.05
    assert abs(np.mean(np.concatenate(list(magnitudes.values())) > 0) - 0.5) < 0.05
    assert randaugment(image, RandAugment(operations="increasing"), random) is image


def test_the_result_depends_only_on_the_generator() -> None:
    config = Augment(randaugment=RAND_M9)
    one, other, third = (augmented(make_image(), config, np.random.default_rng(seed)).tobytes() for seed in (7, 7, 8))
    assert one == other != third
    assert deit().randaugment is RAND_M9
    assert (deit().repeats, deit(1).repeats) == (3, 1)
    with pytest.raises(ValueError, match=r"randaugment\.noise is 0\.5 with the tensorflow operations"):
        RandAugment(layers=2, noise=0.5)
