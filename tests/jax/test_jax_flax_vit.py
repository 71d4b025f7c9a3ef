"""The Flax classes compared with the PyTorch ViT of transformers, loaded from the same folders."""

import importlib
import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import oracle
from slow_cases import slow_except
from twins import flax_params, torch_model

from vitkit import FlaxViTForImageClassification, FlaxViTModel, ViTConfig
from vitkit.jax import flatten
from vitkit.models.vit import PRESETS, Config
from vitkit.transformers.flax_config import attributes_of, model_config

transformers = oracle("transformers")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}

CONFIGS = {
    "small": {},
    "tanh, no bias": {"hidden_act": "gelu_pytorch_tanh", "qkv_bias": False, "layer_norm_eps": 1e-6},
    "gray": {"num_channels": 1, "patch_size": 16, "hidden_act": "relu"},
    "not square": {"image_size": [32, 48], "patch_size": [16, 8]},
    "pooler": {"pooler_output_size": 20, "hidden_act": "silu"},
}


def random_images(config, count: int = 2) -> np.ndarray:
    size = config.image_size if not isinstance(config.image_size, int) else (config.image_size,) * 2
    return np.random.default_rng(0).standard_normal((count, config.num_channels, *size), dtype=np.float32)


def reference(cls, folder, changes=None):
    """Saves a model of transformers with random parameters to a folder."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(**{**SMALL, **(changes or {})}, num_labels=5, attn_implementation="eager")
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def close(given, expected, tolerance: float = 1e-5) -> None:
    expected = np.asarray(expected)
    assert given.shape == expected.shape
    assert np.abs(np.asarray(given) - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("changes", slow_except(CONFIGS, "not square"))
def test_model(tmp_path, changes):
    expected_model = reference(transformers.ViTModel, tmp_path, changes)
    model = FlaxViTModel.from_pretrained(tmp_path)
    images = random_images(model.config)
    with torch.no_grad():
        expected = expected_model(torch.from_numpy(images), output_attentions=True, output_hidden_states=True)
    output = model(images, output_attentions=True, output_hidden_states=True)
    assert output.keys() == ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    close(output.last_hidden_state, expected.last_hidden_state)
    close(output.pooler_output, expected.pooler_output)
    assert (len(output.hidden_states), len(output.attentions)) == (3, 2)
    for given, wanted in zip(output.hidden_states + output.attentions, expected[2] + expected[3], strict=True):
        close(given, wanted)
    assert model.num_parameters() == expected_model.num_parameters()


@pytest.mark.slow
@pytest.mark.parametrize("changes", slow_except(CONFIGS, "gray"))
def test_classifier_and_saved_folders(tmp_path, changes):
    """Compares logits with transformers, which then loads the folder that we save."""
    expected_model = reference(transformers.ViTForImageClassification, tmp_path / "hf", changes)
    model = FlaxViTForImageClassification.from_pretrained(tmp_path / "hf", from_pt=True)
    images = random_images(model.config)
    with torch.no_grad():
        expected = expected_model(torch.from_numpy(images)).logits
    close(model(images).logits, expected)
    model.save_pretrained(tmp_path / "ours")
    opened, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in expected_model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], value), name
    again = FlaxViTForImageClassification.from_pretrained(tmp_path / "ours")
    assert all((flatten(again.params)[name] == value).all() for name, value in flatten(model.params).items())
    assert again.config.id2label == model.config.id2label


@pytest.mark.slow
def test_v5_names_and_shards(tmp_path):
    """Loads files with v5 names, and shards."""
    expected_model = reference(transformers.ViTForImageClassification, tmp_path / "one")
    images = torch.from_numpy(random_images(expected_model.config))
    expected_model.save_pretrained(tmp_path / "new", save_original_format=False)
    expected_model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for folder in ("new", "parts"):
        model = FlaxViTForImageClassification.from_pretrained(tmp_path / folder)
        with torch.no_grad():
            close(model(images.numpy()).logits, expected_model(images).logits)


@pytest.mark.slow
def test_pytorch_loads_saved_folders(tmp_path):
    from vitkit import checkpoints

    model = FlaxViTForImageClassification(ViTConfig(**SMALL))
    model.save_pretrained(tmp_path / "folder")
    opened = checkpoints.load(tmp_path / "folder").model
    images = random_images(model.config)
    with torch.no_grad():
        close(model(images).logits, opened(torch.from_numpy(images)))


@pytest.mark.slow
def test_missing_pooler_and_head_are_initialized(tmp_path):
    reference(transformers.ViTForImageClassification, tmp_path)
    with pytest.warns(UserWarning, match="newly initialized, .*: pooler/dense/bias, pooler/dense/kernel"):
        model = FlaxViTModel.from_pretrained(tmp_path)
    assert model._missing_keys == {("pooler", "dense", "kernel"), ("pooler", "dense", "bias")}
    with pytest.raises(
        ValueError,
        match=r"classifier/\w+ failed: checkpoint has shape \(5,\) .* model shape \(9,\).*mismatched_sizes=True",
    ):
        FlaxViTForImageClassification.from_pretrained(tmp_path, num_labels=9)
    with pytest.warns(UserWarning, match="classifier/bias, classifier/kernel"):
        model = FlaxViTForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    assert model.config.num_labels == 9
    assert jax.eval_shape(model, random_images(model.config)).logits.shape == (2, 9)
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_label'; did you mean 'num_labels'"):
        FlaxViTForImageClassification.from_pretrained(tmp_path, num_label=9)


@pytest.mark.slow
def test_google_file(tmp_path):
    """Loads Google files and compares the logits with those of `ViT`."""
    import vitkit.jax as vitjax

    config = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=1, num_heads=4, mlp_width=64, num_classes=5)
    for options, name in (({}, "plain"), ({"pre_logits": 12}, "pre")):
        full = Config(**{**vars(config), **options, "activation": "gelu_tanh"})
        checkpoint = vitjax.FlaxCheckpoint(config=full, params=flax_params(torch_model(full)))
        vitjax.save(tmp_path / f"{name}.npz", checkpoint)
    model = FlaxViTForImageClassification.from_pretrained(tmp_path / "plain.npz")
    assert (model.config.hidden_act, model.config.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-6)
    plain = vitjax.load(tmp_path / "plain.npz")
    images = random_images(model.config)
    close(model(images).logits, plain.model().apply({"params": plain.params}, images.transpose(0, 2, 3, 1)))
    with pytest.raises(ValueError, match="has a pre-logits layer before its head"):
        FlaxViTForImageClassification.from_pretrained(tmp_path / "pre.npz")
    with pytest.warns(UserWarning, match="classifier/bias, classifier/kernel"):
        FlaxViTForImageClassification.from_pretrained(tmp_path / "pre.npz", num_labels=5)
    assert FlaxViTModel.from_pretrained(tmp_path / "pre.npz")(images).pooler_output.shape == (2, 12)


@pytest.fixture(scope="module")
def small():
    return FlaxViTForImageClassification(ViTConfig(**SMALL, num_channels=3), seed=3)


def test_outputs_are_ordered_indexable_and_pytrees(small):
    images = random_images(small.config)
    output = small(images, output_hidden_states=True)
    assert list(output) == ["logits", "hidden_states"]
    assert output[0] is output["logits"] is output.logits
    assert output[:1] == (output.logits,)
    assert (len(output), "attentions" in output, output.attentions) == (2, False, None)
    with pytest.raises(KeyError, match="no field 'attentions'; the fields are logits, hidden_states"):
        output["attentions"]
    assert [name for name, _ in output.items()] == ["logits", "hidden_states"]
    assert output.values() == output.to_tuple()
    plain = small(images, output_hidden_states=True, return_dict=False)
    assert isinstance(plain, tuple)
    assert (plain[0] == output.logits).all()
    assert len(plain[1]) == 3
    assert type(jax.jit(small)(images)) is type(output)
    assert jax.tree.map(jnp.shape, output)[0] == (2, 2)


def test_config_sets_outputs():
    config = ViTConfig(**SMALL, output_attentions=True, return_dict=False)
    assert len(jax.eval_shape(FlaxViTModel(config), random_images(config))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("module", slow_except(["transformers", "vitkit.transformers"], "vitkit.transformers"))
def test_configs_of_other_classes_are_accepted(tmp_path, module):
    config = importlib.import_module(module).ViTConfig(**SMALL, num_labels=5)
    model = FlaxViTForImageClassification(config)
    logits = model(random_images(config)).logits
    assert logits.shape == (2, 5)
    model.save_pretrained(tmp_path)
    again = FlaxViTForImageClassification.from_pretrained(tmp_path, config=config)
    assert (again(random_images(config)).logits == logits).all()
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_labels'"):
        FlaxViTForImageClassification.from_pretrained(tmp_path, config=config, num_labels=3)


@pytest.mark.slow
def test_params_seed_and_no_init(small):
    config = small.config
    again, other = (FlaxViTForImageClassification(config, seed=seed).params for seed in (3, 4))
    assert (again["classifier"]["kernel"] == small.params["classifier"]["kernel"]).all()
    assert not (other["classifier"]["kernel"] == small.params["classifier"]["kernel"]).all()
    assert 0.01 < float(small.params["vit"]["embeddings"]["patch_embeddings"]["projection"]["kernel"].std()) < 0.03
    bare = FlaxViTForImageClassification(config, _do_init=False)
    with pytest.raises(ValueError, match="`params` cannot be accessed from model when the model is created with"):
        _ = bare.params
    with pytest.raises(ValueError, match="`params` cannot be set from model when the model is created with"):
        bare.params = again
    params = bare.init_weights(jax.random.key(3), (1, 32, 32, 3))
    images = random_images(config)
    assert (bare(images, params=params).logits == small(images).logits).all()
    with pytest.raises(ValueError, match="missing"):
        small.params = {"classifier": again["classifier"]}
    assert bare.required_params == {tuple(name.split("/")) for name in flatten(again)}


@pytest.mark.slow
def test_from_pretrained_without_init(tmp_path, small):
    small.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, params = FlaxViTForImageClassification.from_pretrained(tmp_path, _do_init=False)
    images = random_images(small.config)
    assert (model(images, params=params).logits == small(images).logits).all()
    data = json.loads((tmp_path / "config.json").read_text())
    assert (data["model_type"], data["architectures"]) == ("vit", ["ViTForImageClassification"])


@pytest.mark.slow
def test_precision(small, tmp_path):
    images = random_images(small.config)
    half = small.to_bf16(small.params)
    assert {value.dtype for value in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert {value.dtype for value in jax.tree.leaves(small.to_fp32(half))} == {jnp.dtype("float32")}
    assert small.to_fp16(small.params)["vit"]["embeddings"]["cls_token"].dtype == jnp.float16
    mask = jax.tree.map(lambda value: value.ndim > 1, small.params)
    assert small.to_bf16(small.params, mask)["classifier"]["bias"].dtype == jnp.float32
    model = FlaxViTForImageClassification(small.config, seed=3, dtype=jnp.bfloat16)
    assert model(images).logits.dtype == jnp.bfloat16
    close(model(images).logits.astype(jnp.float32), small(images).logits, 2e-2)
    close(small(images, params=half).logits, small(images).logits, 2e-2)
    small.save_pretrained(tmp_path, params=half)
    again = FlaxViTForImageClassification.from_pretrained(tmp_path)
    assert again.params["vit"]["embeddings"]["cls_token"].dtype == jnp.bfloat16


@pytest.mark.slow
def test_training_and_gradients():
    config = ViTConfig(**SMALL, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    model, images = FlaxViTForImageClassification(config), random_images(config)
    first, second = (model(images, dropout_rng=jax.random.key(seed), train=True).logits for seed in (0, 1))
    assert not np.allclose(first, second)

    def loss(params):
        return (model(images, params=params).logits ** 2).sum()

    gradients = jax.grad(loss)(model.params)
    assert all(float(jnp.abs(value).max()) > 0 for name, value in flatten(gradients).items() if "key/bias" not in name)


def test_any_size(small):
    wide = np.zeros((1, 3, 48, 24), np.float32)
    output = jax.eval_shape(partial(small, output_attentions=True), wide)
    assert output.attentions[0].shape == (1, 4, 19, 19)
    with pytest.raises(ValueError, match="have 1 channels; the model expects 3"):
        small(wide[:, :1])


@pytest.mark.parametrize("name", ["vit-ti/16", "vit-b/32", "vit-h/14"])
def test_attributes_round_trip(name):
    config = Config(**{**vars(PRESETS[name]), "position_resize": "bicubic", "num_classes": 3})
    attributes = ViTConfig.from_dict(attributes_of(config))
    assert model_config(attributes, classifier=True) == config
    assert ViTConfig.from_dict(json.loads(attributes.to_json_string())) == attributes


def test_unsupported_configs_raise():
    with pytest.raises(ValueError, match=r"does not support num_registers=4, pool='gap'; use vitkit.jax.ViT"):
        attributes_of(Config(pool="gap", num_registers=4))
    with pytest.raises(ValueError, match="unknown hidden_act 'tanh'; expected one of gelu"):
        model_config(ViTConfig(hidden_act="tanh"), classifier=True)
    with pytest.raises(ValueError, match="pooler_act is 'relu'"):
        model_config(ViTConfig(pooler_act="relu"), classifier=False)


def test_flax_classes_are_exported():
    import vitkit
    import vitkit.transformers

    assert vitkit.FlaxViTModel is vitkit.transformers.FlaxViTModel is FlaxViTModel
    assert (
        vitkit.FlaxViTForImageClassification
        is vitkit.transformers.FlaxViTForImageClassification
        is FlaxViTForImageClassification
    )
    with pytest.raises(AttributeError, match=r"no attribute 'FlaxBert'"):
        vitkit.transformers.FlaxBert  # noqa: B018


def test_options_of_from_pretrained(tmp_path):
    reference(transformers.ViTModel, tmp_path / "sub" / "model")
    options = {"revision": "main", "cache_dir": None, "token": None, "local_files_only": True, "force_download": False}
    options |= {
        "from_pt": True,
        "subfolder": "model",
        "trust_remote_code": False,
        "add_pooling_layer": False,
        "seed": 2,
    }
    model = FlaxViTModel.from_pretrained(tmp_path / "sub", **options)
    assert (model.seed, model.config.model_type, model.framework) == (2, "vit", "flax")
    assert "pooler" not in model.params
    output = jax.eval_shape(model, random_images(model.config))
    assert output.keys() == ("last_hidden_state",)
    with pytest.raises(
        TypeError, match="FlaxViTForImageClassification got an unexpected keyword argument 'add_pooling"
    ):
        FlaxViTForImageClassification(model.config, add_pooling_layer=False)
    with pytest.raises(OSError, match=r"none is neither a local folder|has none of|has no"):
        FlaxViTModel.from_pretrained(tmp_path / "none", local_files_only=True)
    model.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(OSError, match=r"has none of flax_model\.msgpack, model\.safetensors"):
        FlaxViTModel.from_pretrained(tmp_path / "empty")


def test_msgpack_files_and_config_methods(tmp_path, small, monkeypatch):
    small.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "flax_model.msgpack"]
    again = FlaxViTForImageClassification.from_pretrained(tmp_path)
    assert again.params["vit"].keys() == {"embeddings", "encoder", "layernorm"}
    assert all((flatten(again.params)[name] == value).all() for name, value in flatten(small.params).items())
    assert '"model_type": "vit"' in again.config.to_json_string()
    assert again.config.architectures == ["ViTForImageClassification"]
    small.save_pretrained(tmp_path)
    assert not (tmp_path / "flax_model.msgpack").exists(), "an older file would be read instead"
    small.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / "model.safetensors").exists(), "the PyTorch classes would read an older file"
    uploaded = {}
    monkeypatch.setattr(
        "vitkit.transformers.hub.push_folder", lambda folder, files, **rest: uploaded.update(rest, n=files)
    )
    small.push_to_hub("me/model", token="secret", safe_serialization=False)
    assert uploaded == {"repo_id": "me/model", "token": "secret", "n": ["*"]}
    small.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/model")
    assert uploaded == {"repo_id": "me/model", "token": None, "n": ["config.json", "model.safetensors"]}


@pytest.mark.slow
def test_module_has_init_and_apply(small):
    images = random_images(small.config)
    last = np.transpose(images, (0, 2, 3, 1))
    logits = small(images).logits
    assert (small.module.apply({"params": small.params}, last).logits == logits).all()
    assert (small.module.apply({"params": small.params}, last, True, False, False, False)[0] == logits).all()
    drawn = small.module.init({"params": jax.random.key(3)}, last, return_dict=False)["params"]
    assert (flatten(drawn)["classifier/kernel"] == small.params["classifier"]["kernel"]).all()
    saved = FlaxViTForImageClassification(small.config, seed=3)
    saved.enable_gradient_checkpointing()
    np.testing.assert_allclose(saved(images).logits, logits, atol=1e-6)
    assert not FlaxViTModel.can_generate()


def test_module_path_of_transformers():
    from vitkit.transformers.models.vit import modeling_flax_vit

    assert modeling_flax_vit.FlaxViTModel is FlaxViTModel
    assert issubclass(FlaxViTForImageClassification, modeling_flax_vit.FlaxViTPreTrainedModel)
