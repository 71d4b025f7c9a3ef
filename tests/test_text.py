"""Untrusted text: escaped for people, and unchanged for programs."""

import json

import pytest

from vitkit.text import json_text, plural, printable, shortened

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
