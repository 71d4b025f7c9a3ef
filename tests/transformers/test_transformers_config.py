"""ViTConfig compared with that of transformers: fields, defaults, labels, JSON, errors."""

import copy
import dataclasses
import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

import vitkit
from vitkit import ViTConfig

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "three labels": {"num_labels": 3},
    "named labels": {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}},
    "sizes": {"image_size": [32, 64], "patch_size": [8, 8], "pooler_output_size": 17, "problem_type": "regression"},
    "unknown": {"favorite": "blue", "nested": {"a": [1, 2]}, "dtype": "bfloat16", "architectures": ["ViTModel"]},
    "shared": {"output_hidden_states": True, "return_dict": False, "chunk_size_feed_forward": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_json_matches_transformers(hf: ModuleType, case: str) -> None:
    expected = json.loads(hf.ViTConfig(**CASES[case]).to_json_string())
    del expected["transformers_version"]
    text = ViTConfig(**CASES[case]).to_json_string()
    assert json.loads(text) == expected
    assert text == json.dumps(expected, indent=2, sort_keys=True) + "\n"


def test_fields_and_defaults_match_transformers(hf: ModuleType) -> None:
    reference, ours = hf.ViTConfig(), ViTConfig()
    own = [field.name for field in dataclasses.fields(hf.ViTConfig) if field.name in hf.ViTConfig.__annotations__]
    assert [field.name for field in dataclasses.fields(ours)] == own
    for name in [*own, "num_labels", "id2label", "label2id", "problem_type", "return_dict", "output_attentions"]:
        assert getattr(ours, name) == getattr(reference, name), name
    assert ViTConfig.model_type == "vit"
    assert ours.use_return_dict


def test_positional_arguments_match_version_4() -> None:
    values = [48, 2, 4, 96, "relu", 0.1, 0.2, 0.3, 1e-6, 64, 8, 1, False, 8, 24, "relu"]
    config = ViTConfig(*values)
    assert [getattr(config, field.name) for field in dataclasses.fields(config)] == values
    with pytest.raises(TypeError, match=r"takes 16 positional arguments \(hidden_size, .*\), got 17"):
        ViTConfig(*values, 1)
    with pytest.raises(TypeError, match="got hidden_size both as positional and as keyword argument"):
        ViTConfig(48, hidden_size=48)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_labels": 10**9}, "num_labels is 1000000000; expected an integer from 0 to 10,000,000"),
        ({"num_labels": "ten"}, "num_labels is 'ten'"),
        ({"num_labels": -3}, "num_labels is -3"),
        ({"id2label": ["cat"]}, "id2label is a list; expected a dict"),
        ({"id2label": {"0": "cat"}, "label2id": ["cat"]}, "label2id is a list"),
        ({"dtype": "load"}, "unknown dtype 'load'"),
        ({"to_dict": 1}, "'to_dict' cannot be set: it is a method of ViTConfig"),
        ({"use_return_dict": True}, "'use_return_dict' cannot be set"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers has 1,000,000,000 layers; the limit is 10,000"),
    ],
)
def test_hostile_values_of_a_file_raise(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **values}))
    with pytest.raises(ValueError, match=re.escape(message)):
        ViTConfig.from_pretrained(tmp_path)


def test_layers_of_backbones_are_limited() -> None:
    for name, value in (("Dinov2Config", {"num_hidden_layers": 10**9}), ("ResNetConfig", {"depths": [10**9] * 4})):
        with pytest.raises(ValueError, match="the limit is 10,000"):
            getattr(vitkit, name)(**value)


def test_dtypes_of_a_file() -> None:
    assert ViTConfig(dtype="torch.bfloat16").dtype is torch.bfloat16
    assert ViTConfig(torch_dtype="auto").dtype is None


def test_num_labels_resets_labels_and_id2label_takes_precedence(caplog: pytest.LogCaptureFixture) -> None:
    config = ViTConfig()
    config.num_labels = 4
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3}
    named = ViTConfig(id2label={"0": "a", "1": "b", "2": "c"})
    assert named.id2label == {0: "a", 1: "b", 2: "c"}
    assert named.label2id == {"a": 0, "b": 1, "c": 2}
    named.num_labels = 3
    assert named.id2label[0] == "a", "the number of labels is the same: they do not change"
    with caplog.at_level(logging.WARNING):
        assert ViTConfig(id2label={0: "a", 1: "b", 2: "c"}, num_labels=7).num_labels == 7
    message = "You passed `num_labels=7` which is incompatible to the `id2label` map of length `3`."
    assert message in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loaded = ViTConfig.from_dict({"id2label": {"0": "a", "1": "b", "2": "c"}}, num_labels=7)
    assert loaded.num_labels == 7
    assert loaded.id2label[6] == "LABEL_6"
    assert message in caplog.text
    assert ViTConfig(num_labels=0).num_labels == 0


LABELS: list[dict[str, Any]] = [
    {"id2label": {0: "a", 1: "b"}, "num_labels": 3},
    {"id2label": {0: "a", 1: "b", 2: "c"}, "num_labels": 2},
    {"id2label": {0: "a", 1: "b"}, "label2id": {"x": 0, "y": 1}, "num_labels": 3},
    {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "num_labels": 3},
    {"id2label": {0: "a", 1: "b"}, "num_labels": 2},
    {"label2id": {"x": 0, "y": 1}, "num_labels": 2},
    {"num_labels": 0},
]


@pytest.mark.parametrize("settings", LABELS, ids=str)
def test_labels_that_contradict_their_number_are_those_of_transformers(
    hf: ModuleType, settings: dict[str, Any]
) -> None:
    ours, theirs = ViTConfig(**settings), hf.ViTConfig(**settings)
    assert (ours.num_labels, ours.id2label) == (theirs.num_labels, theirs.id2label)
    if theirs.label2id is not None:
        assert ours.label2id == theirs.label2id
    named = {"id2label": {0: "a"}, "num_labels": 4}
    assert ViTConfig.from_dict(ours.to_dict(), **named).id2label == {0: "a"}


class RenamedConfig(ViTConfig):
    """A config with another name of an attribute."""

    attribute_map: ClassVar[dict[str, str]] = {"embed_dim": "hidden_size"}


def test_attributes_have_other_names(tmp_path: Path) -> None:
    config = RenamedConfig(embed_dim=32)
    assert (config.embed_dim, config.hidden_size) == (32, 32)
    config.embed_dim = 48
    assert (config.hidden_size, "embed_dim" in config.to_dict()) == (48, False)
    config.save_pretrained(tmp_path)
    assert RenamedConfig.from_pretrained(tmp_path, embed_dim=64).hidden_size == 64
    assert not hasattr(config, "depth")
    assert copy.deepcopy(config) == config


def test_unknown_keys_are_saved_and_loaded(tmp_path: Path, hf: ModuleType) -> None:
    config = ViTConfig(favorite="blue", drop_path_rate=0.1, torch_dtype="float16")
    assert config.favorite == "blue"
    assert config.dtype is config.torch_dtype is torch.float16
    config.save_pretrained(tmp_path)
    again = ViTConfig.from_pretrained(tmp_path)
    assert again.favorite == "blue"
    assert again.name_or_path == str(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert hf.ViTConfig.from_pretrained(tmp_path).favorite == "blue"
    hf.ViTConfig(favorite="red", num_labels=3).save_pretrained(tmp_path)
    config, unused = ViTConfig.from_pretrained(tmp_path, hidden_size=64, unknown=1, return_unused_kwargs=True)
    assert (config.favorite, config.num_labels, config.hidden_size, unused) == ("red", 3, 64, {"unknown": 1})
    assert ViTConfig.from_json_file(tmp_path / "config.json").num_labels == 3
    assert ViTConfig.from_pretrained(tmp_path / "config.json").num_labels == 3


def test_indices_of_labels_are_those_of_transformers_wherever_they_are_set(hf: ModuleType) -> None:
    names, indices = {"0": "x", "1": "y"}, {"x": "0", "y": "1"}
    changed, updated = ViTConfig(), ViTConfig()
    changed.id2label, changed.label2id = names, indices  # type: ignore[assignment]
    updated.update({"id2label": names, "label2id": indices})
    loaded = ViTConfig.from_dict({"id2label": {"0": "a", "1": "b"}}, id2label=names, label2id=indices)
    for config in (changed, updated, loaded, ViTConfig(id2label=names, label2id=indices)):
        assert (config.id2label, config.label2id) == ({0: "x", 1: "y"}, {"x": "0", "y": "1"})
    theirs = hf.ViTConfig(id2label=names, label2id=indices)
    assert (theirs.id2label, theirs.label2id) == (changed.id2label, changed.label2id)


def test_equality_and_copies() -> None:
    assert ViTConfig(num_labels=3) == ViTConfig(num_labels=3) != ViTConfig(num_labels=4)
    assert ViTConfig(**json.loads(ViTConfig(num_labels=3, image_size=(32, 48)).to_json_string())).image_size == (32, 48)
    config = ViTConfig()
    config.update({"hidden_size": 12})
    assert config.hidden_size == 12
    assert repr(config).startswith('ViTConfig {\n  "attention_probs_dropout_prob"')


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "768"}, "'hidden_size' is '768'; expected an integer"),
        ({"qkv_bias": 1}, "'qkv_bias' is 1; expected true or false"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'; expected None or one of 'regression'"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "requires `num_labels > 1`"),
    ],
)
def test_invalid_values_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ViTConfig(**settings)


def test_another_model_type_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 64}')
    config = ViTConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.hidden_size) == ("vit", 64)
    assert "a model of type 'bert' to instantiate a model of type 'vit'" in caplog.text
    with pytest.raises(OSError, match="is neither a local folder nor a valid id"):
        ViTConfig.from_pretrained(tmp_path / "nothing")
