"""Tables of text fit the width, and different names stay different."""

import pytest

from vitkit.tables import listing, table

NAMES = [f"photos/of/many/flowers/{name}/in/the/garden.json" for name in ("rose", "tulip", "daisy")]


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_a_table_fits_and_keeps_its_rows_apart(width: int) -> None:
    lines = table([(name, "accuracy", "93.20%") for name in NAMES], ("evaluator", "metric", "value"), width=width)
    assert max(map(len, lines.splitlines())) <= width
    assert len(set(lines.splitlines())) == 4
    assert all(line == line.rstrip() for line in lines.splitlines())
    assert all(line.endswith("93.20%") for line in lines.splitlines()[1:])


def test_a_short_table_is_aligned() -> None:
    assert table([("a", "1,234"), ("bcd", "5")], ("name", "count")) == "name  count\na     1,234\nbcd       5"
    assert table([("a", "1"), ("b", "x")]) == "a  1\nb  x"
    assert table([]) == ""


def test_wide_characters_and_control_characters_keep_their_columns() -> None:
    lines = table([("\u65e5\u672c", "1"), ("a\nb\x1b[31m", "2")]).splitlines()
    assert lines == ["\u65e5\u672c          1", "a\\nb\\x1b[31m  2"]


def test_many_columns_come_closer_before_names_are_cut() -> None:
    rows = [("bit-r101x1", *["12.34"] * 4), ("bit-r50x1", *["56.78"] * 4)]
    assert table(rows, width=34).splitlines()[0] == "bit-r101x1 12.34 12.34 12.34 12.34"


@pytest.mark.parametrize("width", [40, 80])
def test_long_texts_continue_below(width: int) -> None:
    text = listing([("name", "word " * 40), ("labels", "cat\ndog"), ("empty", "")], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.split("\n")[-3:] == ["labels  cat", "        dog", "empty"]
    assert text.count("word") == 40
