"""Configs to JSON and back, overrides, and errors that name the key, the value and what was expected."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from vitkit import config as configs


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["one", "none"] = "one"


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: tuple[int, int]
    name: str = "x"
    on: bool = False
    limit: int | None = None
    ratio: int | float = 1
    labels: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    table: dict[str, float] = field(default_factory=dict)


def test_round_trip_through_json() -> None:
    config = Outer(size=(2, 3), labels=("a", "b"), inner=Inner(rate=0.5, kind="none"), table={"a": 1.0}, ratio=0.5)
    assert configs.from_dict(Outer, json.loads(json.dumps(configs.to_dict(config)))) == config


def test_missing_fields_have_their_defaults() -> None:
    assert configs.from_dict(Outer, {"size": [1, 2]}) == Outer(size=(1, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"the key 'size' is missing"),
        ({"size": [1, 2], "nmae": "y"}, r"unknown key 'nmae'; did you mean 'name'\?"),
        ({"size": [1, 2], "inner": {"rat": 1}}, r"unknown key 'inner.rat'; did you mean 'rate'"),
        ({"size": [1]}, r"'size' has 1 values; expected 2"),
        ({"size": 3}, r"'size' is 3; expected a list"),
        ({"size": [1, "2"]}, r"'size\[1\]' is '2'; expected an integer"),
        ({"size": [1, 2], "on": 1}, r"'on' is 1; expected true or false"),
        ({"size": [1, True]}, r"'size\[1\]' is True; expected an integer"),
        ({"size": [1, 2], "name": None}, r"'name' is None; expected a string"),
        ({"size": [1, 2], "limit": "many"}, r"'limit' is 'many'; expected an integer"),
        ({"size": [1, 2], "inner": {"kind": "two"}}, r"'inner.kind' is 'two'; expected one of 'one', 'none'"),
        ({"size": [1, 2], "inner": 3}, r"inner: expected an object with named fields, got 3"),
        ({"size": [1, 2], "table": {"a": "b"}}, r"'table.a' is 'b'; expected a number"),
        ([1], r"Outer: expected an object"),
    ],
)
def test_errors_name_the_key_and_the_value(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configs.from_dict(Outer, data)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "[4, 5]", (4, 5)),
        ("name", "12", "12"),
        ("name", "true", "true"),
        ("on", "true", True),
        ("limit", "none", None),
        ("limit", "7", 7),
        ("inner.rate", "1e-3", 1e-3),
        ("inner.rate", "1", 1.0),
        ("inner.kind", "none", "none"),
        ("ratio", "2", 2),
    ],
)
def test_overrides_from_strings(name: str, text: str, value: Any) -> None:
    changed = configs.override(Outer(size=(1, 2)), {name: text})
    for part in name.split("."):
        changed = getattr(changed, part)
    assert changed == value
    assert type(changed) is type(value)


def test_invalid_overrides_are_rejected() -> None:
    config = Outer(size=(1, 2))
    with pytest.raises(ValueError, match=r"unknown key 'inner.rte'; did you mean 'rate'"):
        configs.override(config, {"inner.rte": "1"})
    with pytest.raises(ValueError, match=r"cannot set 'name.x', because 'name' is 'x'"):
        configs.override(config, {"name.x": "1"})


def test_overrides_are_applied_at_once() -> None:
    from vitkit import models

    for names in (["width", "num_heads"], ["num_heads", "width"]):
        assert models.preset("r+vit-ti/16", **{name: {"width": 64, "num_heads": 4}[name] for name in names}).width == 64
    changed = configs.override(Outer(size=(1, 2)), {"inner.rate": "0.5", "inner.kind": "none", "name": "y"})
    assert changed == Outer(size=(1, 2), name="y", inner=Inner(rate=0.5, kind="none"))


def test_a_name_given_twice_is_an_error_with_both_values() -> None:
    assert configs.once([("a", "1"), ("b", "2")]) == {"a": "1", "b": "2"}
    with pytest.raises(ValueError, match=r"--set a was given twice, as '1' and as '2\\n'; give it once"):
        configs.once([("a", "1"), ("a", "2\n")], "--set ")


def test_an_error_lists_the_choices_once() -> None:
    with pytest.raises(ValueError, match="expected one of 'adamw'") as caught:
        configs.convert("zzz", Literal["adamw", "sgd"], "optimizer.name", text="zzz")
    assert str(caught.value).count("adamw") == 1
    with pytest.raises(ValueError, match=r"; did you mean 'adamw'\?"):
        configs.convert("adam", Literal["adamw", "sgd"], "optimizer.name", text="adam")
    assert configs.nearest("zzz", range(100)).endswith("28, 29 and 70 more")
    assert configs.nearest("zzz", ["a"]) == "; choose from a"
