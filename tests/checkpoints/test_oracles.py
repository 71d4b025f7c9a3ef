"""Files in original layouts give the outputs of the original implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.data.processor import HALF, IMAGENET_MEAN, IMAGENET_STD, Processor

GOOGLE = ["vit_s56_p14_unpooled", "vit_s64_p16", "vit_s64_p8_gap_linen", "vit_s96_p32_prelogits"]
BIG_VISION = ["gap_scan", "gap_sincos_rep", "map_learn", "tok_learn"]
FILES = [("vit_jax", name, "npz") for name in GOOGLE] + [("big_vision", name, "big_vision") for name in BIG_VISION]


@pytest.mark.parametrize(("folder", "name", "format_name"), FILES)
def test_jax_files(shared: Path, folder: str, name: str, format_name: str, tmp_path: Path) -> None:
    path = shared / "oracles" / folder / f"{name}.npz"
    with np.load(path.with_suffix(".io.npz")) as arrays:
        expected = dict(arrays)
    config = {"pool": "none"} if "unpooled" in name else {}
    loaded = checkpoints.load(path, config=config)
    assert loaded.origin.format == format_name
    assert loaded.model.config.activation == "gelu_tanh"
    batch = torch.from_numpy(expected["images_nhwc"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = loaded.model(batch).numpy()
        pre_logits = loaded.model.represent(loaded.model.features(batch)).numpy()
    assert np.abs(logits - expected["logits"]).max() < 1e-4
    if "pre_logits" in expected:
        assert np.abs(pre_logits - expected["pre_logits"]).max() < 1e-4
    if not config:
        checkpoints.save(loaded, tmp_path / "again.npz", to="npz")
        with torch.no_grad():
            assert np.array_equal(checkpoints.load(tmp_path / "again.npz").model(batch).numpy(), logits)


@pytest.mark.parametrize("name", GOOGLE)
def test_google_files_round_trip_array_by_array(shared: Path, name: str, tmp_path: Path) -> None:
    path = shared / "oracles" / "vit_jax" / f"{name}.npz"
    checkpoints.convert(path, tmp_path / "again.npz", "npz")
    with np.load(path) as before, np.load(tmp_path / "again.npz") as after:
        if "linen" not in name:
            assert set(before.files) == set(after.files)
            assert all(np.array_equal(before[key], after[key]) for key in before.files)
        assert len(before.files) == len(after.files)


@pytest.mark.parametrize("name", ["hybrid_1_1_1_odd_size", "hybrid_2_2", "hybrid_root_only"])
def test_hybrids_are_detected(shared: Path, name: str) -> None:
    from vitkit.checkpoints.formats import all_formats

    path = shared / "oracles" / "vit_jax" / f"{name}.npz"
    if any(each.family == "hybrid" for each in all_formats()):
        assert checkpoints.load(path).origin.format != "npz"
    else:
        with pytest.raises(CheckpointError, match="a hybrid of a ResNet and a ViT"):
            checkpoints.load(path)


def test_google_preprocessing(shared: Path) -> None:
    loaded = checkpoints.load(shared / "oracles" / "vit_jax" / "vit_s64_p16.npz")
    assert loaded.processor == Processor.squash(64, mean=HALF, std=HALF, profile="ignore")
    assert loaded.model.config.position_resize == "bilinear_corners"


def test_deit_tiny(shared: Path) -> None:
    folder = shared / "weights" / "deit_tiny_patch16_224"
    loaded = checkpoints.load(folder)
    noise = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad(), np.load(folder / "reference_noise.npz") as expected:
        assert np.abs(loaded.model(torch.from_numpy(noise)).numpy() - expected["logits"]).max() < 1e-4
    assert loaded.processor == Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD, profile="ignore")
    assert loaded.processor.resize_to == 256
    assert (loaded.model.config.num_heads, loaded.model.config.activation) == (3, "gelu")
    assert loaded.labels[0] == "tench, Tinca tinca"
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 5_717_416
