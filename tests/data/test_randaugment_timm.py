"""timm's RandAugment, operation by operation at the same magnitudes, against timm."""

import random as standard

import numpy as np
import pytest
from PIL import Image

from vitkit.data.augment import Augment, augmented, randaugment_timm
from vitkit.data.augment.presets import RAND_M9, deit
from vitkit.data.augment.randaugment import RandAugment, randaugment

LEVELS = [0.0, 0.3, 2.5, 5.0, 7.4, 9.0, 10.0]


def picture(rows: int = 40, columns: int = 56) -> Image.Image:
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", randaugment_timm.OPERATIONS)
def test_every_operation_is_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("timm.data.auto_augment")
    hparams = {"img_mean": randaugment_timm.FILL, "interpolation": Image.Resampling.BICUBIC, "translate_const": 100}
    image = picture()
    for level in LEVELS:
        if (name, level) == ("PosterizeIncreasing", 10.0):  # no bits: black in the Pillow of its time, an error in ours
            assert randaugment_timm.OPERATIONS[name](image, level).getextrema() == ((0, 0),) * 3
            continue
        for sign, chance in ((1.0, 0.1), (-1.0, 0.9)):
            monkeypatch.setattr(standard, "random", lambda chance=chance: chance)
            expected = theirs.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)(image)
            found = randaugment_timm.OPERATIONS[name](image, sign * level)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=f"{name} {sign * level}")


def test_the_set_is_timms() -> None:
    theirs = pytest.importorskip("timm.data.auto_augment")
    hparams = {"img_mean": randaugment_timm.FILL, "translate_const": 100}
    made = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)
    assert [operation.name for operation in made.ops] == list(randaugment_timm.OPERATIONS)
    assert {(each.prob, each.magnitude, each.magnitude_std, each.magnitude_max) for each in made.ops} == {
        (randaugment_timm.PROBABILITY, RAND_M9.magnitude, RAND_M9.noise, None)
    }
    assert made.num_layers == RAND_M9.layers


def test_operations_and_levels_are_drawn_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: dict[str, list[float]] = {name: [] for name in randaugment_timm.OPERATIONS}

    def note(name: str) -> object:
        return lambda image, level: (levels[name].append(level), image)[1]

    for name in levels:
        monkeypatch.setitem(randaugment_timm.OPERATIONS, name, note(name))
    random, image = np.random.default_rng(0), picture()
    for _ in range(3000):
        randaugment(image, RAND_M9, random)
    counts = [len(each) for each in levels.values()]
    assert abs(sum(counts) - 3000) < 4 * 39  # half of six thousand
    assert all(abs(count - 200) < 60 for count in counts)
    drawn = np.abs(np.concatenate(list(levels.values())))
    assert drawn.max() <= 10.0
    assert abs(drawn.mean() - 9.0) < 0.05
    assert abs(drawn.std() - 0.5) < 0.05
    assert abs(np.mean(np.concatenate(list(levels.values())) > 0) - 0.5) < 0.05
    assert randaugment(image, RandAugment(operations="increasing"), random) is image


def test_it_depends_on_its_generator_alone() -> None:
    config = Augment(randaugment=RAND_M9)
    one, other, third = (augmented(picture(), config, np.random.default_rng(seed)).tobytes() for seed in (7, 7, 8))
    assert one == other != third
    assert deit().randaugment is RAND_M9
    assert (deit().repeats, deit(1).repeats) == (3, 1)
    with pytest.raises(ValueError, match=r"randaugment\.noise is 0\.5 with the tensorflow operations"):
        RandAugment(layers=2, noise=0.5)
