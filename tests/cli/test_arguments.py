"""Contract of all options of all commands: what is given twice, unknown options, missing values, and the help."""

import re
from pathlib import Path
from typing import get_args

import pytest

from vitkit.cli import _arguments, command, commands, main, parse
from vitkit.cli._arguments import REQUIRED, Option, options

ALL = [(name, each) for name in commands() for each in options(command(name)).values() if each.flags]


def values(option: Option) -> tuple[str, str]:
    """Two different values of an option."""
    choices = tuple(map(str, get_args(option.type)))
    if option.kind == "value" and choices:
        return choices[0], choices[1]
    return ("3", "5") if option.type in (int, float) else ("a=1", "b=2")


def words(name: str, without: Option | None = None) -> list[str]:
    """The smallest command line of a command, without one of its options."""
    found = []
    for each in options(command(name)).values():
        if each.default is REQUIRED and each != without:
            found += (
                [f"{each.shown}={values(each)[0]}"]
                if each.flags
                else [values(each)[0] if get_args(each.type) and each.kind == "value" else "x"]
            )
    return found


def value_of(name: str, option: Option, line: list[str]) -> object:
    given = parse(name, line)
    return given[option.name] if option.group == option.name else getattr(given[option.group], option.name)


@pytest.mark.parametrize(("name", "option"), ALL, ids=[f"{name} {each.shown}" for name, each in ALL])
@pytest.mark.parametrize("equals", [False, True], ids=["", "equals"])
def test_an_option_given_twice_accumulates_or_is_an_error(name: str, option: Option, equals: bool) -> None:
    """No value is dropped without a word, whatever the option, its alias and the form of its value."""
    one, two = values(option)
    first, last = option.flags[0], option.flags[-1]
    if option.kind == "flag":
        assert value_of(name, option, [*words(name, option), first, last]) is True
        return
    twice = [f"{first}={one}", f"{last}={two}"] if equals else [first, one, last, two]
    if option.kind == "value":
        with pytest.raises(ValueError, match=r"was given twice, as '.*' and as '.*'; give it once") as caught:
            parse(name, [*words(name, option), *twice])
        assert one in str(caught.value)
        assert two in str(caught.value)
        return
    expected = (one, two) if option.kind == "list" else f"{one},{two}"
    assert value_of(name, option, [*words(name, option), *twice]) == expected
    if option.kind == "list":
        assert value_of(name, option, [*words(name, option), first, one, two]) == expected


@pytest.mark.parametrize(("name", "option"), ALL, ids=[f"{name} {each.shown}" for name, each in ALL])
def test_an_option_parses_and_needs_its_value(name: str, option: Option) -> None:
    rest = words(name, option)
    if option.kind == "flag":
        with pytest.raises(ValueError, match="takes no value, but '1' was given"):
            parse(name, [*rest, f"{option.shown}=1"])
    elif option.kind != "list":
        with pytest.raises(ValueError, match=f"{option.shown} needs a value, as in {option.shown} "):
            parse(name, [*rest, option.shown])
        value = values(option)[0]
        assert str(value_of(name, option, [*rest, option.shown.replace("-", "_").replace("__", "--"), value])) in (
            value,
            f"{value}.0",
        )
    if option.type in (int, float):
        with pytest.raises(ValueError, match=rf"{option.shown} is 'many'; expected an? \w+$"):
            parse(name, [*rest, option.shown, "many"])
        assert value_of(name, option, [*rest, option.shown, "-1"]) == -1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["inspect", "x", "--set", "depth=1", "--set", "depth=2"], "--set depth was given twice, as '1' and as '2'"),
        (["inspect", "x", "--set", "depth=1", "depth=2"], "--set depth was given twice, as '1' and as '2'"),
        (["inspect", "x", "--set", "depth"], "--set takes NAME=VALUE, such as num_heads=12, not 'depth'"),
        (["finetune", "x", "--stepz", "3"], "has no option --stepz; did you mean --steps?"),
        (["finetune", "x", "--learning-rate", "3"], "did you mean --lr?"),
        (["finetune", "x", "--weight_decay=3"], "did you mean --set optimizer.weight_decay=VALUE?"),
        (["finetune", "x", "-steps", "3"], "has no option -steps; did you mean --steps?"),
        (["models", "--nothing-like-it"], "has no option --nothing-like-it; `vitkit models --help` lists its options"),
        (["finetune"], "`vitkit finetune` needs MODEL and --data SOURCE, as in"),
        (["new", "objectiv", "x"], "KIND is 'objectiv'; expected one of "),
        (["models", "a", "b"], "`vitkit models` does not take the argument 'b'"),
        (["export", "x", "--to", "onx"], "--to is 'onx'; expected one of onnx, openvino, program; did you mean onnx?"),
        (["finetune", "x", "--data", "--out", "y"], "--data needs a value, as in --data SOURCE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_with_the_right_form(
    line: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        ["train", "digits.tiny", "--set", "optimizer.name=qqq"],
        ["train", "digits.tiny", "--set", "augment.crop.kind=qqq"],
        ["train", "digits.tiny", "--set", "qqq=1"],
        ["train", "digits.tiny", "--set", "qqq.qqq=1"],
        ["train", "digits.tiny", "--objective", "qqq"],
        ["train", "digits.tiny", "--mode", "qqq"],
        ["train", "digits.tiny", "--data", "qqq"],
        ["train", "digits.tiny", "--data", "part:qqq=1@digits"],
        ["train", "digits.tiny", "--data", "part:split=qqq@digits"],
        ["train", "digits.tiny", "--data", "csv:x.csv#qqq=1"],
        ["train", "digits.tiny", "--data", "vtab:qqq@x"],
        ["train", "qqq"],
        ["recipes", "qqq"],
        ["models", "qqq"],
        ["paper", "qqq"],
        ["bench", "qqq"],
        ["bench", "inference", "--peers", "qqq"],
        ["bench", "inference", "--precision", "qqq"],
        ["convert", "x", "y", "--to", "qqq"],
        ["export", "x", "--to", "qqq"],
        ["explain", "x", "--out", "x.png", "--method", "qqq"],
        ["inspect", "vit-b/16", "--set", "qqq=1"],
        ["inspect", "vit-b/16", "--set", "pool=qqq"],
        ["qqq"],
    ],
    ids=" ".join,
)
def test_an_error_lists_its_choices_once(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 1
    error = capsys.readouterr().err
    words = re.findall(r"[\w./+-]{3,}(?=,)", error)
    assert len(words) == len(set(words)), error
    assert len(error) < 900, "a long list of choices is shortened"
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["train", "digits.tiny", "--data", "csv:x.csv#image=a,image=b"], "image was given twice, as 'a' and as 'b'"),
        (
            ["train", "digits.tiny", "--data", "part:number=1,number=2@digits"],
            "number was given twice, as '1' and as '2'",
        ),
        (["train", "digits.tiny", "--steps", "3", "--set", "steps=4"], "'steps' was given twice, as 3 and as 4"),
        (["train", "digits.tiny", "--rate", "3", "--set", "optimizer.lr=4"], "'optimizer.lr' was given twice"),
        (
            ["finetune", "x", "--data", "y", "--batch-size", "3", "--set", "batch_size=4"],
            "'batch_size' was given twice",
        ),
        (["finetune", "x", "--data", "y", "--data", "z"], "--data was given twice, as 'y' and as 'z'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_given_twice_in_other_ways_is_an_error(
    line: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y" / "z").mkdir(parents=True)
    assert main(line) == 1
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["y", "z"]


@pytest.mark.parametrize("name", commands())
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_help_fits_the_terminal_and_documents_every_option(name: str, width: int) -> None:
    text = _arguments.help_text(name, command(name), width)
    assert max(map(len, text.splitlines())) <= min(width, 120)
    for mark in ("None", "[TEXT", "|", "<class", "Annotated"):
        assert mark not in text.replace("if it is None", ""), mark
    for each in options(command(name)).values():
        assert each.help.endswith("."), f"vitkit {name} {each.shown} has no help text, or one without a period"
        for flag in each.flags:
            assert f"  {flag}" in text or f", {flag}" in text


def test_shared_options_are_defined_once() -> None:
    """They are fields of a group, with one help text in every command that has them."""
    texts: dict[tuple[str, str], set[str]] = {}
    for name in commands():
        for each in options(command(name)).values():
            if each.name in ("revision", "set", "image_size", "max_pixels", "max_bytes", "allow_truncated"):
                assert each.group != each.name, f"vitkit {name} defines {each.shown} itself"
            if each.group != each.name:
                texts.setdefault((each.group, each.name), set()).add(each.help)
    assert texts
    assert all(len(found) == 1 for found in texts.values())


def test_words_keep_their_places() -> None:
    given = parse("classify", ["m", "--top", "3", "a.jpg", "-", "--json", "--set", "a=1", "b=2", "--set=c=3"])
    assert (given["model"], given["images"], given["top"], given["json"]) == ("m", ("a.jpg", "-"), 3, True)
    assert given["checkpoint"].set == ("a=1", "b=2", "c=3")
