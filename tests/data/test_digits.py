"""The digits in the package are those of the original set, and the split is what it says."""

from importlib.resources import files

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vitkit import data


def test_every_digit_is_that_of_the_original() -> None:
    original, digits = load_digits(), data.source("digits")
    assert len(digits) == 1797
    for index in range(1797):
        example = digits.read(index)
        pixels = np.asarray(example.image)
        assert example.image.mode == "RGB"
        np.testing.assert_array_equal(
            np.rint(pixels / 255 * 16), np.repeat(original.images[index][..., None], 3, axis=2)
        )
        assert example.label == original.target[index] == digits.label(index)
        assert example.key == f"digit {index}"


def test_it_is_small_and_says_where_it_comes_from() -> None:
    folder = files("vitkit.data.sources")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 100_000
    text = folder.joinpath("digits.md").read_text()
    assert "10.24432/C50P49" in text
    assert "CC BY 4.0" in text


def test_a_fifth_is_held_out_of_every_class() -> None:
    training, held_out = data.train_and_val("digits", held_out=0.2, seed=0)
    assert (len(training), len(held_out)) == (1438, 359)
    keys = [source.read(index).key for source in (training, held_out) for index in range(len(source))]
    assert len(set(keys)) == 1797
    counts = [np.bincount([source.label(index) for index in range(len(source))]) for source in (training, held_out)]
    np.testing.assert_array_equal(counts[1], np.rint(0.2 * (counts[0] + counts[1])))


def test_the_split_depends_on_its_seed_alone() -> None:
    digits = data.source("digits")
    one, again, other = (data.stratified_split(digits, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # Held fast: a published number means these digits.
    assert one[:8].tolist() == [5, 9, 12, 14, 16, 17, 19, 23]


def test_bad_names_and_shares_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="unknown data source 'digit' in 'digit'; did you mean 'digits'"):
        data.splits("digit")
    with pytest.raises(ValueError, match="unknown data source 'loader'"):
        data.splits("loader")
    with pytest.raises(ValueError, match="takes no location, 'here' was given"):
        data.splits("digits:here")
    with pytest.raises(ValueError, match=r"held-out share is 1\.0"):
        data.train_and_val("digits", held_out=1.0)


def test_the_folder_lists_its_sources() -> None:
    assert "digits" in data.source_names()
    assert "loader" not in data.source_names()
    for name in data.source_names():
        assert callable(__import__(f"vitkit.data.sources.{name}", fromlist=["open_source"]).open_source)
