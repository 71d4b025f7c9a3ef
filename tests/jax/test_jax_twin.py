"""The Flax ViT compared with the PyTorch ViT."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slow_cases import slow_except
from twins import TINY, flax_params, outputs_of_both, random_images, torch_model

from vitkit.jax import layers
from vitkit.jax.convert import flatten, to_flax
from vitkit.jax.load import shapes
from vitkit.jax.vit import ViT
from vitkit.layers import RESIZES, sincos2d
from vitkit.layers import resize_positions as torch_resize
from vitkit.models.vit import PRESETS

UP_TO_B = [name for name in PRESETS if name.split("-")[1].split("/")[0] in ("mu", "ti", "s", "m", "b")]

OPTIONS = {
    "plain": {},
    "gap": {"pool": "gap", "class_token": False},
    "gap with a class token": {"pool": "gap"},
    "map": {"pool": "map", "class_token": False},
    "map with tanh": {"pool": "map", "activation": "gelu_tanh"},
    "every token": {"pool": "none"},
    "no head": {"num_classes": 0},
    "pre-logits": {"pre_logits": 24},
    "pre-logits of every token": {"pool": "none", "pre_logits": 24},
    "norm after pooling": {"pool": "gap", "norm": "pooled"},
    "sine-cosine": {"position": "sincos2d", "pool": "gap", "class_token": False},
    "sine-cosine with a class token": {"position": "sincos2d"},
    "no positions": {"position": "none"},
    "positions of patches": {"position_tokens": "patches"},
    "positions of all": {"position_tokens": "all", "num_registers": 3},
    "registers": {"num_registers": 3},
    "registers, positions of patches": {"num_registers": 2, "position_tokens": "patches"},
    "registers without a class token": {"num_registers": 2, "class_token": False, "pool": "gap"},
    "tanh": {"activation": "gelu_tanh"},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "eps": {"norm_eps": 1e-12},
    "big eps": {"norm_eps": 1e-2},
    "no qkv bias": {"qkv_bias": False},
    "qk norm": {"qk_norm": True},
    "layer scale": {"layer_scale": 0.3},
    "dropout in inference": {"dropout": 0.5, "attention_dropout": 0.5, "stochastic_depth": 0.5},
    "not square": {"image_size": (40, 24), "patch_size": (8, 4)},
    "one channel": {"channels": 1},
    "five channels": {"channels": 5},
}
FAST = ("map with tanh", "registers, positions of patches", "qk norm")


MORE_GRADIENTS: tuple[dict, ...] = (
    {"depth": 2},
    {"depth": 2, "qk_norm": True, "layer_scale": 0.2},
)


def close(given: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Checks equality up to a tolerance, relative to the maximum if that is above one."""
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("options", slow_except(OPTIONS, *FAST))
def test_every_option(options):
    config = replace(TINY, **options)
    close(*outputs_of_both(config, random_images(2, *config.image_size, config.channels)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "relative"}, "does not support position='relative'"),
        ({"position": "factorized"}, "does not support position='factorized'"),
        ({"position_at": "layers"}, "does not support position_at='layers'"),
        ({"pool": "token+gap"}, r"does not support pool='token\+gap'"),
        ({"mlp": "swiglu"}, "does not support mlp='swiglu'"),
    ],
    ids=str,
)
def test_unsupported_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(replace(TINY, **options))


@pytest.mark.parametrize("name", slow_except(UP_TO_B, "vit-ti/16", "vit-mu/16"))
def test_presets_with_one_block(name):
    config = replace(PRESETS[name], depth=1, num_classes=10, image_size=(56, 56) if "14" in name else (64, 64))
    close(*outputs_of_both(config, random_images(1, *config.image_size, 3)))


@pytest.mark.slow
def test_full_tiny():
    close(*outputs_of_both(PRESETS["vit-ti/16"], random_images(1, 224, 224, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", UP_TO_B)
def test_full_presets(name):
    config = PRESETS[name]
    size = tuple(side - side % config.patch_size[0] for side in config.image_size)
    close(*outputs_of_both(replace(config, image_size=size), random_images(1, *size, 3)))


@pytest.mark.parametrize(
    "name", slow_except(["vit-ti/16", "vit-b/16", "vit-b/32", "vit-l/16", "vit-h/14", "vit-G/14"], "vit-ti/16")
)
def test_shapes_of_presets(name):
    """Compares names and shapes with the PyTorch model, without computing parameters."""
    from vitkit import models

    model = models.build(PRESETS[name], device="meta")
    expected = {key: np.broadcast_to(np.float32(0), value.shape) for key, value in model.state_dict().items()}
    for key, shape in shapes(PRESETS[name]).items():
        assert len(shape) in (1, 2, 3, 4), key
    count = sum(int(np.prod(shape)) for shape in shapes(PRESETS[name]).values())
    assert count == sum(value.size for value in expected.values())


@pytest.mark.parametrize("method", RESIZES)
@pytest.mark.parametrize("size", slow_except([(32, 32), (24, 40), (64, 48), (8, 96), (40, 32)], (24, 40)))
def test_other_sizes(method, size):
    config = replace(TINY, position_resize=method, image_size=(32, 40))
    close(*outputs_of_both(config, random_images(2, *size, 3)))


@pytest.mark.parametrize("method", RESIZES)
@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (7, 7)), ((14, 14), (24, 24)), ((5, 3), (1, 9)), ((16, 16), (7, 12))]
)
def test_resize(method, old, new):
    table = np.random.default_rng(1).standard_normal((old[0] * old[1], 8), dtype=np.float32)
    expected = torch_resize(torch.from_numpy(table), old, new, method).numpy()
    close(np.asarray(layers.resize_positions(jnp.asarray(table), old, new, method)), expected)


def test_sincos():
    close(layers.sincos2d((5, 9), 32), sincos2d((5, 9), 32).numpy(), 1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        layers.sincos2d((2, 2), 30)


def test_unknown_resize_method():
    with pytest.raises(ValueError, match="unknown resize method 'nearest'; expected one of bicubic"):
        layers.resize_positions(jnp.zeros((4, 8)), (2, 2), (3, 3), "nearest")
    with pytest.raises(ValueError, match="5 position embeddings do not match a grid of 2x2"):
        layers.resize_positions(jnp.zeros((5, 8)), (2, 2), (3, 3), "bicubic")


def test_invalid_images_raise():
    params = flax_params(torch_model(TINY))
    with pytest.raises(ValueError, match="have 1 channels; the model expects 3"):
        ViT(TINY).apply({"params": params}, random_images(1, 32, 32, 1))
    with pytest.raises(ValueError, match="7x32 pixels is smaller than one patch of 8x8"):
        ViT(TINY).apply({"params": params}, random_images(1, 7, 32, 3))
    with pytest.raises(ValueError, match=r"images of 33x39 pixels do not consist of patches .* 32x32 or 40x40"):
        ViT(TINY).apply({"params": params}, random_images(1, 33, 39, 3))


def test_features_and_weights():
    """Compares tokens, representation and attention weights."""
    config = replace(TINY, num_registers=2, pre_logits=12)
    model, images = torch_model(config), random_images(2, 32, 40, 3)
    vit, variables = ViT(config), {"params": flax_params(model)}
    with torch.no_grad():
        embedded = model.embed(torch.from_numpy(images).permute(0, 3, 1, 2))
        expected = model.encode(embedded)
        weights = model.blocks[0].attention_weights(embedded.tokens)
    features = jax.jit(partial(vit.apply, method="features", mutable=["intermediates"]))
    given, state = features(variables, images)
    assert (given.grid, given.num_special) == (expected.grid, expected.num_special) == ((4, 5), 3)
    close(np.asarray(given.tokens), expected.tokens.numpy())
    close(np.asarray(given.map), expected.map.permute(0, 2, 3, 1).numpy())
    close(np.asarray(given.special), expected.special.numpy())
    attention = state["intermediates"]["Transformer"]["encoderblock_0"]["MultiHeadDotProductAttention_0"]["attention"][
        0
    ]
    close(np.asarray(attention), weights.numpy())
    with torch.no_grad():
        represented = jax.jit(partial(vit.apply, method="represent"))(variables, given)
        close(np.asarray(represented), model.represent(expected).numpy())


@pytest.mark.parametrize(
    "options",
    [{"pool": "map", "class_token": False}, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE_GRADIENTS)],
)
def test_gradients(options):
    """Compares gradients of all parameters, including position embeddings that are resized."""
    config = replace(TINY, **{"depth": 1, **options})
    model, images, labels = torch_model(config), random_images(3, 24, 40, 3), np.array([0, 3, 1])
    F.cross_entropy(model(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(labels)).backward()
    expected = to_flax({name: value.grad for name, value in model.named_parameters()}, config.num_heads)

    def loss(params):
        logits = ViT(config).apply({"params": params}, images)
        return -jax.nn.log_softmax(logits)[jnp.arange(3), labels].mean()

    given = flatten(jax.jit(jax.grad(loss))(flax_params(model)))
    assert set(given) == set(expected)
    for name, value in expected.items():
        close(np.asarray(given[name]), value)


@pytest.mark.slow
def test_vmap_and_jit():
    config = replace(TINY, depth=1)
    variables, images = {"params": flax_params(torch_model(config))}, random_images(3, 32, 32, 3)
    vit = ViT(config)
    expected = vit.apply(variables, images)
    close(np.asarray(jax.jit(vit.apply)(variables, images)), np.asarray(expected))
    each = jax.jit(jax.vmap(lambda image: vit.apply(variables, image[None])[0]))(images)
    close(np.asarray(each), np.asarray(expected))
    many = jax.tree.map(lambda value: jnp.stack([value, 0 * value]), variables)
    models = jax.jit(jax.vmap(vit.apply, (0, None)))(many, images)
    close(np.asarray(models[0]), np.asarray(expected))
    assert (models[1] == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "gap", "norm": "pooled", "qk_norm": True},
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({}, {"pool": "map"})),
    ],
)
def test_bfloat16(options):
    config = replace(TINY, **options)
    model, images = torch_model(config), random_images(2, 32, 32, 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    given = jax.jit(ViT(config, dtype=jnp.bfloat16).apply)({"params": flax_params(model)}, images)
    assert given.dtype == jnp.bfloat16
    close(np.asarray(given, np.float32), expected, 2e-2)


@pytest.mark.slow
def test_remat():
    """Outputs and gradients are unchanged with dropout, and the computation contains remat."""
    config = replace(TINY, dropout=0.2, stochastic_depth=0.3)
    params, images = flax_params(torch_model(config)), random_images(2, 32, 32, 3)

    def loss(params, remat):
        logits = ViT(config, remat=remat).apply(
            {"params": params}, images, train=True, rngs={"dropout": jax.random.key(1)}
        )
        return (logits**2).sum()

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, again = both(params, False), both(params, True)
    jax.tree.map(lambda a, b: close(np.asarray(b), np.asarray(a)), plain, again)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, True))
    assert "remat" not in str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, False))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "stochastic_depth"])
def test_dropout_trains(option):
    """In training each kind of dropout changes the output, depending on the random stream only."""
    config = replace(TINY, **{option: 0.5})
    vit, variables = ViT(config), {"params": flax_params(torch_model(config))}
    images = random_images(2, 32, 32, 3)
    apply = jax.jit(partial(vit.apply, train=True))

    def run(seed):
        return np.asarray(apply(variables, images, rngs={"dropout": jax.random.key(seed)}))

    assert not np.allclose(run(0), run(1))
    assert (run(0) == run(0)).all()
    assert not np.allclose(run(0), jax.jit(vit.apply)(variables, images))


@pytest.mark.slow
def test_stochastic_depth_drops_samples():
    config = replace(TINY, depth=2, stochastic_depth=0.5)
    vit, variables = ViT(config), {"params": flax_params(torch_model(config))}
    images = np.broadcast_to(random_images(1, 32, 32, 3), (64, 32, 32, 3))
    rngs = {"dropout": jax.random.key(0)}
    tokens = jax.jit(partial(vit.apply, train=True, method="features"))(variables, images, rngs=rngs).tokens
    # The last block drops each of its two branches or not, which gives four outcomes.
    assert len(np.unique(np.asarray(tokens[:, 0, 0]).round(4))) == 4


@pytest.mark.slow
def test_initialization():
    """Matches the original: Xavier for flattened matrices, LeCun for patches, zero head and class token."""
    config = replace(TINY, depth=1, width=64, mlp_width=256, num_registers=2, pre_logits=32)
    flat = flatten(jax.jit(ViT(config).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"])
    assert {name: value.shape for name, value in flat.items()} == shapes(config)
    block = "Transformer/encoderblock_0"
    for name in ("query", "key", "value", "out"):
        kernel = np.asarray(flat[f"{block}/MultiHeadDotProductAttention_0/{name}/kernel"])
        assert 0.95 < np.abs(kernel).max() / np.sqrt(6 / 128) <= 1
    assert 0.95 < np.abs(flat[f"{block}/MlpBlock_0/Dense_0/kernel"]).max() / np.sqrt(6 / 320) <= 1
    assert 0 < np.abs(flat[f"{block}/MlpBlock_0/Dense_1/bias"]).max() < 1e-5
    assert float(flat["embedding/kernel"].std()) == pytest.approx(np.sqrt(1 / 192), rel=0.05)
    assert float(flat["Transformer/posembed_input/pos_embedding"].std()) == pytest.approx(0.02, rel=0.1)
    assert all((flat[name] == 0).all() for name in ("cls", "registers", "head/kernel", "head/bias"))
