"""Google's files go in and out without renaming, and weights go between the twins bit for bit."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from slow_cases import slow_except
from twins import TINY, params_of, pictures, torch_twin

import vitkit.jax as twin
from vitkit import models
from vitkit.jax import npz
from vitkit.jax.convert import flatten, nest, to_flax, to_numpy, to_torch
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
    "little": {"qkv_bias": False, "position": "none", "class_token": False, "pool": "gap", "norm": "pooled"},
}


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """The same names in the same order, the same types, shapes and bytes."""
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


def as_pre_linen(flat):
    """The names that flax gave before Linen: one count for all children of a module."""
    old = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1", "LayerNorm_1": "LayerNorm_2"}
    old["MlpBlock_0"] = "MlpBlock_3"
    return {"/".join(old.get(part, part) for part in name.split("/")): value for name, value in flat.items()}


@pytest.mark.parametrize("name", slow_except(ORACLES, "vit_jax/vit_s96_p32_prelogits", "big_vision/map_learn"))
def test_oracles(shared, tmp_path, name):
    """The logits (and pre-logits) of the original implementation, and the file back bit for bit."""
    path, io = shared / "oracles" / f"{name}.npz", arrays(shared / "oracles" / f"{name}.io.npz")
    checkpoint = twin.load(path, **({"pool": "none"} if "unpooled" in name else {}))
    model, variables = checkpoint.model(), {"params": checkpoint.params}
    logits = np.asarray(model.apply(variables, io["images_nhwc"]))
    assert logits.shape == io["logits"].shape
    assert np.abs(logits - io["logits"]).max() <= 1e-4
    if "pre_logits" in io:
        features = model.apply(variables, io["images_nhwc"], method="features")
        assert np.abs(np.asarray(model.apply(variables, features, method="represent")) - io["pre_logits"]).max() <= 1e-4
    twin.save(tmp_path / "again.npz", checkpoint)
    same(arrays(tmp_path / "again.npz"), arrays(path))


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_by_either_way(shared, name):
    """Read directly and through the PyTorch checkpoint, a file gives the same config and the same parameters."""
    from vitkit import checkpoints

    path = shared / "oracles" / f"{name}.npz"
    changes = {"pool": "none"} if "unpooled" in name else {}
    direct, through = twin.load(path, **changes), checkpoints.load(path, config=changes)
    expected = to_flax(through.model.state_dict(), through.model.config.num_heads)
    same(dict(sorted(flatten(direct.params).items())), dict(sorted(expected.items())))
    skipped = {} if direct.config.position == "learned" else {"image_size": direct.config.image_size}
    tokens = {"position_tokens": direct.config.position_tokens} if not direct.config.class_token else {}
    assert direct.config == replace(through.model.config, **skipped, **tokens)


def test_hybrids_are_refused(shared):
    with pytest.raises(ValueError, match=r"is a hybrid .* the Flax twin covers the plain ViT"):
        twin.load(shared / "oracles" / "vit_jax" / "hybrid_2_2.npz")


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/"])
@pytest.mark.parametrize("kind", ["vit_jax", "pre-linen", "big_vision", "stacked"])
def test_every_spelling_comes_back(tmp_path, prefix, kind):
    """Each way to name the same weights, bfloat16 among them: read into the one tree, and written as it was."""
    config = replace(TINY, pre_logits=12, activation="gelu_tanh")
    config = replace(config, position_tokens="patches") if kind in ("big_vision", "stacked") else config
    tree = to_flax(torch_twin(config).state_dict(), 4)
    tree["head/kernel"] = tree["head/kernel"].astype(ml_dtypes.bfloat16)
    flat = as_pre_linen(tree) if kind == "pre-linen" else dict(tree)
    if kind in ("big_vision", "stacked"):
        flat["pos_embedding"] = flat.pop(npz.POSITIONS)
    if kind == "stacked":
        blocks = [name for name in flat if "encoderblock_0" in name]
        for name in blocks:
            parts = [flat.pop(name.replace("_0", f"_{n}", 1)) for n in range(config.depth)]
            flat[name.replace("encoderblock_0", "encoderblock")] = np.stack(parts)
    names = np.random.default_rng(0).permutation(sorted(flat))
    np.savez(tmp_path / "file.npz", **{prefix + name: flat[name] for name in names})
    checkpoint = twin.load(tmp_path / "file.npz")
    same(dict(sorted(flatten(checkpoint.params).items())), dict(sorted(tree.items())))
    assert replace(checkpoint.config, norm_eps=config.norm_eps) == config
    twin.save(tmp_path / "again.npz", checkpoint)
    same(arrays(tmp_path / "again.npz"), arrays(tmp_path / "file.npz"))


def test_optimiser_state_is_left_out(tmp_path):
    flat = to_flax(torch_twin(TINY).state_dict(), 4)
    state = {f"opt/state/param_states/{name}/momentum": value for name, value in flat.items()}
    np.savez(tmp_path / "file.npz", **{f"opt/target/{name}": value for name, value in flat.items()}, **state)
    given = flatten(twin.load(tmp_path / "file.npz").params)
    same(dict(sorted(given.items())), dict(sorted(flat.items())))


def test_a_new_head_is_written_beside_the_old_names(tmp_path):
    flat = as_pre_linen(to_flax(torch_twin(replace(TINY, num_classes=0)).state_dict(), 4))
    np.savez(tmp_path / "file.npz", **{f"params/{name}": value for name, value in flat.items()})
    twin.save(tmp_path / "new.npz", twin.load(tmp_path / "file.npz").with_head(3))
    assert set(arrays(tmp_path / "new.npz")) == {f"params/{name}" for name in [*flat, "head/kernel", "head/bias"]}
    assert twin.load(tmp_path / "new.npz").config.num_classes == 3


def test_errors_of_files(tmp_path):
    flat = to_flax(torch_twin(replace(TINY, image_size=(32, 24))).state_dict(), 4)
    np.savez(tmp_path / "wide.npz", **flat)
    with pytest.raises(ValueError, match="a table of 12 positions is not square: say its image_size"):
        twin.load(tmp_path / "wide.npz")
    assert twin.load(tmp_path / "wide.npz", image_size=(32, 24)).config.grid == (4, 3)
    np.savez(tmp_path / "none.npz", weight=np.zeros(3))
    with pytest.raises(ValueError, match="no 'embedding/kernel': not a Vision Transformer of Google's"):
        twin.load(tmp_path / "none.npz")
    np.savez(tmp_path / "more.npz", **flat, extra=np.zeros(3))
    with pytest.raises(ValueError, match="do not fit the config: unknown extra"):
        twin.load(tmp_path / "more.npz", image_size=(32, 24))
    np.savez(tmp_path / "less.npz", **{name: value for name, value in flat.items() if "norm/bias" not in name})
    with pytest.raises(ValueError, match="missing Transformer/encoder_norm/bias"):
        twin.load(tmp_path / "less.npz", image_size=(32, 24))
    with pytest.raises(ValueError, match="unknown key 'pol'; did you mean 'pool'"):
        twin.load(tmp_path / "wide.npz", image_size=(32, 24), pol="none")


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversion_is_exact_both_ways(options, dtype):
    """Names, shapes, types and bits of the PyTorch model; and every name of the Flax model is covered."""
    config = replace(TINY, **options)
    state = torch_twin(config).to(dtype).state_dict()
    flat = to_flax(state, config.num_heads)
    assert {name: value.shape for name, value in flat.items()} == shapes(config)
    back = to_torch(flat)
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], value)
    same(dict(sorted(to_flax(to_numpy(flat), config.num_heads).items())), dict(sorted(flat.items())))


def test_conversion_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"'dist_token' is no parameter of models/vit"):
        to_flax({"dist_token": torch.zeros(1)}, 4)
    with pytest.raises(ValueError, match="'Transformer/more' is no parameter of the Flax ViT"):
        to_numpy({"Transformer/more": np.zeros(1)})
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/bias"
    with pytest.raises(ValueError, match=r"query/bias' is there, but not .*key/bias"):
        to_numpy({query: np.zeros((4, 8))})


@pytest.mark.parametrize("to", ["huggingface", "timm", "vitkit", "npz", "big_vision", "torchvision"])
def test_every_format_that_pytorch_reads(tmp_path, to):
    from vitkit import checkpoints
    from vitkit.data.labels import default_labels
    from vitkit.data.processor import Processor

    eps = {"torchvision": 1e-6, "timm": 1e-6, "npz": 1e-6, "big_vision": 1e-6}.get(to, 1e-12)
    act = "gelu_tanh" if to in ("npz", "big_vision") else "gelu"
    resize = {"timm": "bicubic_antialias", "npz": "bilinear_corners", "big_vision": "bilinear_corners"}
    dialect = {"position_resize": resize.get(to, "bicubic"), "norm_eps": eps, "activation": act}
    tokens = {"position_tokens": "patches"} if to == "big_vision" else {}
    config = replace(TINY, width=64, num_heads=1, mlp_width=256, **dialect, **tokens)
    model = torch_twin(config)
    whole = checkpoints.Checkpoint(model=model, processor=Processor.squash((32, 32)), labels=default_labels(5))
    target = tmp_path / {"npz": "m.npz", "big_vision": "m.npz", "torchvision": "m.pth"}.get(to, "m")
    checkpoints.save(whole, target, to=to)
    source = target if to != "npz" else tmp_path / "m.npz"
    checkpoint = twin.load(source)
    images = pictures(2, 32, 32, 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    given = checkpoint.model().apply({"params": checkpoint.params}, images)
    assert np.abs(np.asarray(given) - expected).max() <= 1e-5


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_folders_that_pytorch_opens(tmp_path, options):
    from vitkit import checkpoints

    config = replace(TINY, **options)
    model = torch_twin(config)
    checkpoint = twin.FlaxCheckpoint(config=config, params=params_of(model), labels=tuple("abcde"))
    twin.save(tmp_path / "folder", checkpoint)
    opened = checkpoints.load(tmp_path / "folder")
    assert opened.labels == tuple("abcde")
    for name, value in model.state_dict().items():
        assert torch.equal(opened.model.state_dict()[name], value)
    again = twin.load(tmp_path / "folder")
    same(dict(sorted(flatten(again.params).items())), dict(sorted(flatten(checkpoint.params).items())))
    assert again.labels == tuple("abcde")
    with pytest.raises(ValueError, match="overwrite"):
        twin.save(tmp_path / "folder", checkpoint)
    twin.save(tmp_path / "folder", checkpoint, overwrite=True)


def test_other_families_are_refused(tmp_path):
    from vitkit import checkpoints
    from vitkit.data.labels import default_labels
    from vitkit.data.processor import Processor

    config = replace(models.preset("bit-r50x1", num_classes=0), depths=(1,))
    whole = checkpoints.Checkpoint(
        model=models.build(config), processor=Processor.squash((32, 32)), labels=default_labels(0)
    )
    checkpoints.save(whole, tmp_path / "net", to="vitkit")
    with pytest.raises(ValueError, match="of the family 'resnet': the Flax twin covers the plain ViT"):
        twin.load(tmp_path / "net")


def test_new_head_and_new_size():
    """As the PyTorch model does them: a zero head in place of head and pre-logits, the table resized once."""
    config = replace(TINY, pre_logits=12, position_resize="bicubic")
    model = torch_twin(config)
    checkpoint = twin.FlaxCheckpoint(config=config, params=params_of(model))
    fresh = checkpoint.with_head(7)
    model.reset_head(7)
    assert fresh.config == model.config
    same(dict(sorted(flatten(fresh.params).items())), dict(sorted(to_flax(model.state_dict(), 4).items())))
    images = pictures(2, 40, 56, 3)
    before = checkpoint.model().apply({"params": checkpoint.params}, images)
    wide = checkpoint.with_image_size((40, 56))
    assert wide.config.grid == (5, 7)
    assert wide.params["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, 36, 32)
    after = wide.model().apply({"params": wide.params}, images)
    assert np.abs(np.asarray(after - before)).max() <= 1e-5
    assert nest(flatten(wide.params)).keys() == checkpoint.params.keys()
