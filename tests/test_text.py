"""Untrusted text: escaped for people, and unchanged for programs."""

import json

import pytest
from rich.cells import cell_len

from vitkit.text import fit, fit_all, json_text, percent, plural, printable, shortened

ODD = ("plain", "caf\u00e9", "\x1b[31m\r\n", "\x9b2J", "\u2028\u202e", "\udcff\ud800", "\U000e0001", "\x7f\0")


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_is_printable_and_json_keeps_it(text: str, ascii_only: bool) -> None:
    assert printable(text).isprintable()
    written = json_text({text: [text]}, ascii_only=ascii_only)
    assert written.isprintable()
    assert json.loads(written) == {text: [text]}
    assert not ascii_only or written.isascii()


def test_ordinary_text_is_unchanged() -> None:
    assert printable("caf\u00e9 \u65e5\u672c \U0001f600") == "caf\u00e9 \u65e5\u672c \U0001f600"
    assert printable("a\x1bb\n") == "a\\x1bb\\n"


def test_lists_and_counts() -> None:
    assert shortened(["a", "b\n", "c"]) == "a, b\\n, c"
    assert shortened([str(number) for number in range(1005)]) == "0, 1, 2 and 1,002 more"
    assert (plural(1, "image"), plural(0, "image"), plural(1234, "image")) == ("1 image", "0 images", "1,234 images")


def test_a_fraction_is_printed_with_two_decimals() -> None:
    assert [percent(value) for value in (0.8, 1, 0.0, 0.123456, 5e-5)] == [
        "80.00%",
        "100.00%",
        "0.00%",
        "12.35%",
        "0.01%",
    ]


@pytest.mark.parametrize("width", [1, 4, 5, 8, 20, 80])
@pytest.mark.parametrize(
    "text", ["", "a" * 20, "photos/2024/" + "x" * 90 + "/cat.jpg", "\u65e5\u672c\u8a9e" * 30, "e\u0301" * 90]
)
def test_a_fitted_text_has_at_most_the_width(text: str, width: int) -> None:
    short = fit(text, width)
    assert cell_len(short) <= width
    assert cell_len(text) > width or short == text


def test_a_fitted_text_shows_its_start_and_its_end() -> None:
    assert fit("photos/holidays/2024/cat.jpg", 20) == "photos/ho.../cat.jpg"


def test_different_names_stay_different_where_they_fit() -> None:
    long = "run/" + "x" * 60
    names = [f"{long}/{each}/{'y' * 60}.jpg" for each in ("left", "right", "other")]
    middle = [f"{'a' * index}b{'a' * (200 - index)}" for index in range(5, 195)]
    for group in (names, middle, ["short", *names, "short"]):
        for width in (24, 40, 78):
            short = fit_all(group, width)
            assert len(set(short)) == len(set(group))
            assert all(cell_len(each) <= width for each in short)
    assert fit_all(["a.jpg", "b.jpg"], 40) == ["a.jpg", "b.jpg"]
