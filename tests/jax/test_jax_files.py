"""Loading and saving of Google's files, and conversion between PyTorch and Flax, bit for bit."""

from dataclasses import replace
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from slow_cases import slow_except
from twins import TINY, flax_params, random_images, torch_model

import vitkit.jax as vitjax
from vitkit import checkpoints, models
from vitkit.jax.convert import POSITIONS, flatten, nest, to_flax, to_torch
from vitkit.jax.load import shapes

ORACLES = [
    "vit_jax/vit_s64_p16",
    "vit_jax/vit_s96_p32_prelogits",
    "vit_jax/vit_s64_p8_gap_linen",
    "vit_jax/vit_s56_p14_unpooled",
    "big_vision/tok_learn",
    "big_vision/map_learn",
    "big_vision/gap_sincos_rep",
    "big_vision/gap_scan",
]

KINDS = {
    "plain": {},
    "map and registers": {"pool": "map", "num_registers": 2, "position_tokens": "all"},
    "all extras": {"qk_norm": True, "layer_scale": 0.1, "pre_logits": 12},
    "minimal": {"qkv_bias": False, "position": "none", "class_token": False, "pool": "gap", "norm": "pooled"},
}


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Checks that names, their order, dtypes, shapes and bytes are equal."""
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


def as_pre_linen(flat):
    """Renames to the numbering before Linen: one counter for all children of a module."""
    old = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1", "LayerNorm_1": "LayerNorm_2"}
    old["MlpBlock_0"] = "MlpBlock_3"
    return {"/".join(old.get(part, part) for part in name.split("/")): value for name, value in flat.items()}


@pytest.mark.parametrize("name", slow_except(ORACLES, "vit_jax/vit_s96_p32_prelogits", "big_vision/map_learn"))
def test_original_files(shared, tmp_path, name):
    """Logits and pre-logits match the original implementation, and the saved file is bitwise equal."""
    path, io = shared / "oracles" / f"{name}.npz", arrays(shared / "oracles" / f"{name}.io.npz")
    checkpoint = vitjax.load(path, **({"pool": "none"} if "unpooled" in name else {}))
    model, variables = checkpoint.model(), {"params": checkpoint.params}
    logits = np.asarray(jax.jit(model.apply)(variables, io["images_nhwc"]))
    assert logits.shape == io["logits"].shape
    assert np.abs(logits - io["logits"]).max() <= 1e-4
    if "pre_logits" in io:
        features = jax.jit(partial(model.apply, method="features"))(variables, io["images_nhwc"])
        represented = jax.jit(partial(model.apply, method="represent"))(variables, features)
        assert np.abs(np.asarray(represented) - io["pre_logits"]).max() <= 1e-4
    vitjax.save(tmp_path / "again.npz", checkpoint)
    same(arrays(tmp_path / "again.npz"), arrays(path))


@pytest.mark.parametrize("name", ORACLES)
def test_loading_directly_and_through_pytorch_gives_the_same_parameters(shared, name):
    """Compares config and parameters with those of `checkpoints.load`."""
    from vitkit import checkpoints

    path = shared / "oracles" / f"{name}.npz"
    changes = {"pool": "none"} if "unpooled" in name else {}
    direct, through = vitjax.load(path, **changes), checkpoints.load(path, config=changes)
    expected = to_flax(through.model.state_dict(), through.model.config.num_heads)
    same(dict(sorted(flatten(direct.params).items())), dict(sorted(expected.items())))
    skipped = {} if direct.config.position == "learned" else {"image_size": direct.config.image_size}
    tokens = {"position_tokens": direct.config.position_tokens} if not direct.config.class_token else {}
    assert direct.config == replace(through.model.config, **skipped, **tokens)


def test_hybrids_raise(shared):
    with pytest.raises(ValueError, match=r"so it is a hybrid ViT, which vitkit.jax does not support"):
        vitjax.load(shared / "oracles" / "vit_jax" / "hybrid_2_2.npz")


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/"])
@pytest.mark.parametrize("kind", ["vit_jax", "pre-linen", "big_vision", "stacked"])
def test_every_name_format_is_saved_unchanged(tmp_path, prefix, kind):
    """Loads all name formats, including bfloat16 arrays, to the same tree, and saves them unchanged."""
    config = replace(TINY, pre_logits=12, activation="gelu_tanh")
    config = replace(config, position_tokens="patches") if kind in ("big_vision", "stacked") else config
    tree = to_flax(torch_model(config).state_dict(), 4)
    tree["head/kernel"] = tree["head/kernel"].astype(ml_dtypes.bfloat16)
    flat = as_pre_linen(tree) if kind == "pre-linen" else dict(tree)
    if kind in ("big_vision", "stacked"):
        flat["pos_embedding"] = flat.pop(POSITIONS)
    if kind == "stacked":
        blocks = [name for name in flat if "encoderblock_0" in name]
        for name in blocks:
            parts = [flat.pop(name.replace("_0", f"_{n}", 1)) for n in range(config.depth)]
            flat[name.replace("encoderblock_0", "encoderblock")] = np.stack(parts)
    names = np.random.default_rng(0).permutation(sorted(flat))
    np.savez(tmp_path / "file.npz", **{prefix + name: flat[name] for name in names})
    checkpoint = vitjax.load(tmp_path / "file.npz")
    same(dict(sorted(flatten(checkpoint.params).items())), dict(sorted(tree.items())))
    assert replace(checkpoint.config, norm_eps=config.norm_eps) == config
    vitjax.save(tmp_path / "again.npz", checkpoint)
    same(arrays(tmp_path / "again.npz"), arrays(tmp_path / "file.npz"))


def test_optimizer_state_is_ignored(tmp_path):
    flat = to_flax(torch_model(TINY).state_dict(), 4)
    state = {f"opt/state/param_states/{name}/momentum": value for name, value in flat.items()}
    np.savez(tmp_path / "file.npz", **{f"opt/target/{name}": value for name, value in flat.items()}, **state)
    given = flatten(vitjax.load(tmp_path / "file.npz").params)
    same(dict(sorted(given.items())), dict(sorted(flat.items())))


def test_a_new_head_is_saved_with_the_names_of_the_file(tmp_path):
    flat = as_pre_linen(to_flax(torch_model(replace(TINY, num_classes=0)).state_dict(), 4))
    np.savez(tmp_path / "file.npz", **{f"params/{name}": value for name, value in flat.items()})
    vitjax.save(tmp_path / "new.npz", vitjax.load(tmp_path / "file.npz").with_head(3))
    assert set(arrays(tmp_path / "new.npz")) == {f"params/{name}" for name in [*flat, "head/kernel", "head/bias"]}
    assert vitjax.load(tmp_path / "new.npz").config.num_classes == 3


def test_errors_of_files(tmp_path):
    flat = to_flax(torch_model(replace(TINY, image_size=(32, 24))).state_dict(), 4)
    np.savez(tmp_path / "wide.npz", **flat)
    with pytest.raises(ValueError, match="a position embedding with 13 rows is not a square grid; set image_size"):
        vitjax.load(tmp_path / "wide.npz")
    assert vitjax.load(tmp_path / "wide.npz", image_size=(32, 24)).config.grid == (4, 3)
    np.savez(tmp_path / "none.npz", weight=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"is not a ViT checkpoint of Google: it contains .* but no 'embedding/kernel'"
    ):
        vitjax.load(tmp_path / "none.npz")
    norm = "Transformer/encoderblock_0/LayerNorm_2/scale"
    np.savez(tmp_path / "twice.npz", **flat, **{norm: flat[norm.replace("_2", "_1")]})
    with pytest.raises(
        ValueError, match=r"contains .*LayerNorm_1/scale under two names, .*LayerNorm_1.* and .*LayerNorm_2"
    ):
        vitjax.load(tmp_path / "twice.npz", image_size=(32, 24))
    np.savez(tmp_path / "more.npz", **flat, extra=np.zeros(3))
    with pytest.raises(ValueError, match="do not match the config: unknown extra"):
        vitjax.load(tmp_path / "more.npz", image_size=(32, 24))
    np.savez(tmp_path / "less.npz", **{name: value for name, value in flat.items() if "norm/bias" not in name})
    with pytest.raises(ValueError, match="missing Transformer/encoder_norm/bias"):
        vitjax.load(tmp_path / "less.npz", image_size=(32, 24))
    with pytest.raises(ValueError, match="unknown key 'pol' in config; did you mean 'pool'"):
        vitjax.load(tmp_path / "wide.npz", image_size=(32, 24), pol="none")


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversion_is_exact_both_ways(options, dtype):
    """Names, shapes, dtypes and bits of both models match."""
    config = replace(TINY, **options)
    state = torch_model(config).to(dtype).state_dict()
    flat = to_flax(state, config.num_heads)
    assert {name: value.shape for name, value in flat.items()} == shapes(config)
    back = to_torch(flat)
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], value)
    same(dict(sorted(to_flax(to_torch(flat), config.num_heads).items())), dict(sorted(flat.items())))


def test_conversion_of_unknown_names_raises():
    with pytest.raises(ValueError, match="the Flax ViT has no parameters for dist_token"):
        to_flax({"dist_token": torch.zeros(1)}, 4)
    with pytest.raises(ValueError, match="the PyTorch ViT has no parameters for Transformer/more"):
        to_torch({"Transformer/more": np.zeros(1)})
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/bias"
    with pytest.raises(ValueError, match=r"converting the tensor .*query/bias also needs .*key/bias"):
        to_torch({query: np.zeros((4, 8))})


OTHERS = [pytest.param(to, marks=pytest.mark.slow) for to in ("timm", "vitkit", "big_vision", "torchvision")]


@pytest.mark.parametrize("to", ["huggingface", "npz", *OTHERS])
def test_every_format_of_checkpoints(tmp_path, to):
    from vitkit import checkpoints
    from vitkit.data.labels import default_labels
    from vitkit.data.processor import Processor

    eps = {"torchvision": 1e-6, "timm": 1e-6, "npz": 1e-6, "big_vision": 1e-6}.get(to, 1e-12)
    act = "gelu_tanh" if to in ("npz", "big_vision") else "gelu"
    resize = {"timm": "bicubic_antialias", "npz": "bilinear_corners", "big_vision": "bilinear_corners"}
    settings = {"position_resize": resize.get(to, "bicubic"), "norm_eps": eps, "activation": act}
    tokens = {"position_tokens": "patches"} if to == "big_vision" else {}
    config = replace(TINY, width=64, num_heads=1, mlp_width=256, **settings, **tokens)
    model = torch_model(config)
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash((32, 32)), labels=default_labels(5))
    target = tmp_path / {"npz": "m.npz", "big_vision": "m.npz", "torchvision": "m.pth"}.get(to, "m")
    checkpoints.save_checked(checkpoint, target, to=to, lossy=True)
    source = target if to != "npz" else tmp_path / "m.npz"
    checkpoint = vitjax.load(source)
    images = random_images(2, 32, 32, 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    given = checkpoint.model().apply({"params": checkpoint.params}, images)
    assert np.abs(np.asarray(given) - expected).max() <= 1e-5


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_pytorch_loads_saved_folders(tmp_path, options):
    from vitkit import checkpoints

    config = replace(TINY, **options)
    model = torch_model(config)
    checkpoint = vitjax.FlaxCheckpoint(config=config, params=flax_params(model), labels=tuple("abcde"))
    vitjax.save(tmp_path / "folder", checkpoint)
    opened = checkpoints.load(tmp_path / "folder")
    assert opened.labels == tuple("abcde")
    for name, value in model.state_dict().items():
        assert torch.equal(opened.model.state_dict()[name], value)
    again = vitjax.load(tmp_path / "folder")
    same(dict(sorted(flatten(again.params).items())), dict(sorted(flatten(checkpoint.params).items())))
    assert again.labels == tuple("abcde")
    with pytest.raises(ValueError, match="overwrite"):
        vitjax.save(tmp_path / "folder", checkpoint)
    vitjax.save(tmp_path / "folder", checkpoint, overwrite=True)


def test_other_families_raise(tmp_path):
    from vitkit import checkpoints
    from vitkit.data.labels import default_labels
    from vitkit.data.processor import Processor

    config = replace(models.preset("bit-r50x1", num_classes=0), depths=(1,))
    checkpoint = checkpoints.Checkpoint(
        model=models.build(config), processor=Processor.squash((32, 32)), labels=default_labels(0)
    )
    checkpoints.save(checkpoint, tmp_path / "net", to="vitkit")
    with pytest.raises(ValueError, match=r"is a model of the family 'bit', but vitkit\.jax supports only plain ViTs"):
        vitjax.load(tmp_path / "net")


@pytest.mark.slow
def test_with_head_and_with_image_size():
    """Matches the PyTorch model: head and pre-logits become a zero head, positions are resized."""
    config = replace(TINY, pre_logits=12, position_resize="bicubic")
    model = torch_model(config)
    checkpoint = vitjax.FlaxCheckpoint(config=config, params=flax_params(model))
    new = checkpoint.with_head(7)
    model.reset_head(7)
    assert new.config == model.config
    same(dict(sorted(flatten(new.params).items())), dict(sorted(to_flax(model.state_dict(), 4).items())))
    images = random_images(2, 40, 56, 3)
    before = jax.jit(checkpoint.model().apply)({"params": checkpoint.params}, images)
    wide = checkpoint.with_image_size((40, 56))
    assert wide.config.grid == (5, 7)
    assert wide.params["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, 36, 32)
    after = jax.jit(wide.model().apply)({"params": wide.params}, images)
    assert np.abs(np.asarray(after - before)).max() <= 1e-5
    assert nest(flatten(wide.params)).keys() == checkpoint.params.keys()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_an_rgb_file_is_adapted_to_other_channels_like_that_of_pytorch(channels: int, tmp_path) -> None:
    model = torch_model(TINY)
    checkpoint = vitjax.FlaxCheckpoint(config=TINY, params=flax_params(model))
    for name in ("a.npz", "folder"):
        vitjax.save(tmp_path / name, checkpoint)
        adapted = vitjax.load(tmp_path / name, channels=channels, num_heads=TINY.num_heads)
        ours = checkpoints.load(tmp_path / name, channels=channels, config={"num_heads": TINY.num_heads}).model
        images = random_images(2, 32, 32, channels)
        with torch.no_grad():
            expected = ours(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        given = np.asarray(adapted.model().apply({"params": adapted.params}, images))
        np.testing.assert_allclose(given, expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="only weights for 3 channels"):
            adapted.with_channels(7)
