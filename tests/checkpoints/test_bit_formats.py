"""Hybrids and BiT ResNets: Google's `.npz` files and timm folders, also loaded by timm."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle
from torch import nn

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError, preprocessing
from vitkit.models import bit, hybrid

SMALL = {"width": 32, "depth": 2, "num_heads": 2, "mlp_width": 64, "num_classes": 5}
ORIGINAL = {"activation": "gelu_tanh"}
TIMM = {"weight_eps": 1e-8, "weight_eps_on": "variance", "group_norm_eps": 1e-5, "position_resize": "bicubic_antialias"}
BIT = bit.Config(depths=(2, 1, 3, 1), stem_width=32, num_classes=5)


def checkpoint(config: hybrid.Config | bit.Config) -> Checkpoint:
    """Returns a model of this config without zero weights."""
    torch.manual_seed(0)
    model = models.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = tuple(f"kind {index}" for index in range(config.num_classes))
    return Checkpoint(model=model, processor=preprocessing.google(config), labels=labels)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.model.config == other.model.config
    assert one.processor == other.processor
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["hybrid_root_only", "hybrid_2_2", "hybrid_1_1_1_odd_size"])
def test_original_files_give_the_original_logits_and_round_trip(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "oracles" / "vit_jax"
    with np.load(folder / f"{name}.io.npz") as file:
        images, logits = torch.from_numpy(file["images_nhwc"]).permute(0, 3, 1, 2), torch.from_numpy(file["logits"])
    read = checkpoints.load(folder / f"{name}.npz", image_size=(images.shape[2], images.shape[3]))
    assert read.origin.format == "hybrid_npz"
    assert read.model.config.image_size == tuple(images.shape[2:])
    with torch.no_grad():
        torch.testing.assert_close(read.model(images), logits, atol=1e-4, rtol=0)
    odd = "odd" in name  # the file stores no image size, only a grid
    checkpoints.save_checked(read, tmp_path / "again.npz", to="npz", lossy=odd)
    with np.load(folder / f"{name}.npz") as before, np.load(tmp_path / "again.npz") as after:
        assert set(before.files) == set(after.files)
        for key in before.files:
            np.testing.assert_array_equal(before[key], after[key])


@pytest.mark.parametrize("depths", [(), (1, 2)], ids=str)
def test_hybrid_npz_round_trip_and_loading_in_timm(tmp_path: Path, depths: tuple[int, ...]) -> None:
    timm_hybrid = oracle("timm.models.vision_transformer_hybrid")

    config = hybrid.Config(image_size=(64, 64), patch_size=(32, 32), depths=depths, **SMALL, **ORIGINAL)
    written = checkpoint(config)
    assert checkpoints.save_checked(written, tmp_path / "hybrid.npz", to="npz", lossy=True).format == "hybrid_npz"
    assert_same(checkpoints.load(tmp_path / "hybrid.npz", config={"num_heads": 2}), written)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 5, "img_size": 64}

    def embed(**arguments: object) -> nn.Module:
        return timm_hybrid.HybridEmbed(timm_hybrid._resnetv2(layers=depths), **arguments)

    theirs = timm_hybrid.VisionTransformer(patch_size=config.map_patch[0], embed_layer=embed, **sizes)
    theirs.load_pretrained(str(tmp_path / "hybrid.npz"))
    ours = written.model.state_dict()
    assert theirs.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.state_dict().items())


def test_older_flax_files_have_norms_with_four_axes(tmp_path: Path) -> None:
    config = hybrid.Config(image_size=(32, 32), patch_size=(8, 8), depths=(1, 1), **SMALL, **ORIGINAL)
    for made, norms in ((checkpoint(config), ("gn",)), (checkpoint(BIT), ("gamma", "beta"))):
        checkpoints.save_checked(made, tmp_path / "new.npz", to="npz", overwrite=True, lossy=True)
        with np.load(tmp_path / "new.npz") as file:
            arrays = {key: file[key] for key in file.files}
        old = {key: value[None, None, None] if any(norm in key for norm in norms) and value.ndim == 1 else value
               for key, value in arrays.items()}  # fmt: skip
        assert any(value.shape[:3] == (1, 1, 1) and value.ndim == 4 for value in old.values())
        np.savez(tmp_path / "old.npz", **old)
        assert_same(checkpoints.load(tmp_path / "old.npz"), checkpoints.load(tmp_path / "new.npz"))


def test_bit_npz_round_trip_and_loading_in_timm(tmp_path: Path) -> None:
    from functools import partial

    timm_layers = oracle("timm.layers")
    timm_resnet = oracle("timm.models.resnetv2")

    written = checkpoint(BIT)
    assert checkpoints.save_checked(written, tmp_path / "bit.npz", to="npz", lossy=True).format == "bit_npz"
    read = checkpoints.load(tmp_path / "bit.npz")
    assert read.origin.format == "bit_npz"
    assert_same(read, written)
    conv = partial(timm_layers.StdConv2d, eps=1e-10)
    theirs = timm_resnet.ResNetV2(
        [2, 1, 3, 1], (128, 256, 512, 1024), 5, stem_chs=32, stem_type="fixed", conv_layer=conv
    )
    theirs.load_pretrained(str(tmp_path / "bit.npz"))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(read.model(images), theirs.eval()(images), atol=1e-4, rtol=0)
    with np.load(tmp_path / "bit.npz") as file:
        assert file["resnet/head/conv2d/kernel"].shape == (1, 1, 1024, 5)
        assert file["resnet/block3/unit03/c/group_norm/gamma"].shape == (128,)
        np.savez(
            tmp_path / "numbered.npz",
            **{key.replace("standardized_conv2d/", "standardized_conv2d_17/"): file[key] for key in file.files},
        )
    assert_same(checkpoints.load(tmp_path / "numbered.npz"), written)


@pytest.mark.parametrize(
    "depths", [(), *(pytest.param(depths, marks=pytest.mark.slow) for depths in ((2, 2, 2, 2), (3, 4, 9)))], ids=str
)
def test_timm_loads_our_hybrid(tmp_path: Path, depths: tuple[int, ...]) -> None:
    timm = oracle("timm")

    config = hybrid.Config(image_size=(64, 96), patch_size=(32, 32), depths=depths, **SMALL, **TIMM)
    written = checkpoint(config)
    assert checkpoints.save(written, tmp_path / "hybrid", to="timm") == "hybrid_timm"
    read = checkpoints.load(tmp_path / "hybrid")
    assert_same(read, written)
    assert read.labels == written.labels
    theirs = timm.create_model(f"local-dir:{tmp_path / 'hybrid'}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), written.model(images), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_timm_loads_our_bit(tmp_path: Path) -> None:
    timm = oracle("timm")

    written = checkpoint(models.preset("bit-r50x1", num_classes=5, weight_eps=1e-8))
    assert checkpoints.save(written, tmp_path / "bit", to="timm") == "bit_timm"
    read = checkpoints.load(tmp_path / "bit")
    assert_same(read, written)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'bit'}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), written.model(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["hybrid", "bit", "axial", "axial_resnet"])
def test_vitkit_folder_stores_every_field(tmp_path: Path, family: str) -> None:
    written = checkpoint(models.family(family).TINY)
    assert checkpoints.save(written, tmp_path / family) == "vitkit"
    assert_same(checkpoints.load(tmp_path / family), written)


def test_unsupported_configs_and_missing_tensors_raise_errors(tmp_path: Path) -> None:
    original = checkpoint(hybrid.Config(image_size=(64, 64), patch_size=(32, 32), depths=(), **SMALL, **ORIGINAL))
    with pytest.raises(CheckpointError, match=r"timm's hybrid always implies .*'weight_eps': 1e-08"):
        checkpoints.save(original, tmp_path / "timm", to="timm")
    tiny = dataclasses.replace(hybrid.TINY, activation="gelu_tanh")
    with pytest.raises(CheckpointError, match=r"Google's .npz of a hybrid always implies {'num_groups': 32}"):
        checkpoints.save_checked(checkpoint(tiny), tmp_path / "tiny.npz", to="npz", lossy=True)
    with pytest.raises(CheckpointError, match=r"timm has no BiT with depths \(2, 1, 3, 1\)"):
        checkpoints.save(checkpoint(BIT), tmp_path / "bit", to="timm")
    checkpoints.save_checked(original, tmp_path / "full.npz", to="npz", lossy=True)
    with np.load(tmp_path / "full.npz") as file:
        part = {key: file[key] for key in file.files if key != "gn_root/scale"}
    np.savez(tmp_path / "part.npz", **part)
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: gn_root/scale"):
        checkpoints.load(tmp_path / "part.npz", config={"num_heads": 2})
    checkpoints.save_checked(checkpoint(BIT), tmp_path / "bit.npz", to="npz", lossy=True)
    with np.load(tmp_path / "bit.npz") as file:
        part = {key: file[key] for key in file.files if "block3/unit02/a/standard" not in key}
    np.savez(tmp_path / "gap.npz", **part)
    with pytest.raises(CheckpointError, match=r"residual blocks are missing: stage 2 block 1"):
        checkpoints.load(tmp_path / "gap.npz")
