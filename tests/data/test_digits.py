"""The bundled digits against the original dataset, and the stratified split."""

from importlib.resources import files

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vitkit import data


def test_digits_equal_the_original() -> None:
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


def test_the_file_is_small_and_states_its_origin() -> None:
    folder = files("vitkit.data.sources")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 100_000
    text = folder.joinpath("digits.md").read_text()
    assert "10.24432/C50P49" in text
    assert "CC BY 4.0" in text


def test_the_validation_split_has_a_fifth_of_every_class() -> None:
    training, validation = data.train_and_val("digits", held_out=0.2, seed=0)
    assert (len(training), len(validation)) == (1438, 359)
    keys = [source.read(index).key for source in (training, validation) for index in range(len(source))]
    assert len(set(keys)) == 1797
    counts = [np.bincount([source.label(index) for index in range(len(source))]) for source in (training, validation)]
    np.testing.assert_array_equal(counts[1], np.rint(0.2 * (counts[0] + counts[1])))


def test_the_split_depends_only_on_the_seed() -> None:
    digits = data.source("digits")
    one, again, other = (data.stratified_split(digits, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # Published results depend on this split.
    assert one[:8].tolist() == [5, 9, 12, 14, 16, 17, 19, 23]


def test_invalid_names_and_fractions_raise() -> None:
    with pytest.raises(ValueError, match=r"unknown data source 'digit', and there is no .*; did you mean 'digits'"):
        data.splits("digit")
    with pytest.raises(ValueError, match="unknown data source 'loader'"):
        data.splits("loader")
    with pytest.raises(ValueError, match="takes no location, got 'digits:here'"):
        data.splits("digits:here")
    with pytest.raises(ValueError, match=r"validation fraction is 1\.0"):
        data.train_and_val("digits", held_out=1.0)


def test_source_names_lists_the_files() -> None:
    assert "digits" in data.source_names()
    assert "loader" not in data.source_names()
    for name in data.source_names():
        assert callable(__import__(f"vitkit.data.sources.{name}", fromlist=["open_source"]).open_source)
