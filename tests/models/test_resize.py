"""Resizing models to other image and patch sizes, and FlexiViT's resizing of the projection against its formula."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.layers import resize_patches
from vitkit.models import vit

BASE = dataclasses.replace(vit.TINY, image_size=(24, 32))
VARIANTS = {
    **{name: models.family(name).TINY for name in models.families()},
    "factorized": dataclasses.replace(BASE, position="factorized"),
    "axial factorized": dataclasses.replace(models.family("axial").TINY, position="factorized"),
    "beit shared": dataclasses.replace(models.family("beit").TINY, relative="shared", position="learned"),
    "relative": dataclasses.replace(BASE, position="relative"),
    "layers": dataclasses.replace(BASE, position_at="layers"),
    "sincos": dataclasses.replace(BASE, position="sincos2d"),
    "registers": dataclasses.replace(BASE, num_registers=2, position_tokens="all"),
}


def build_random(config) -> models.Backbone:
    torch.manual_seed(0)
    model = models.build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resized_model_has_the_same_logits_at_that_size(name: str) -> None:
    """The forward pass at another size resizes positions temporarily; `resize` does the same permanently."""
    model = build_random(VARIANTS[name])
    rows, columns = model.config.image_size
    size = (2 * rows, columns + columns // 2)
    images = torch.randn(2, model.config.channels, *size)
    before = model(images)
    model.resize(size)
    assert model.config.image_size == size
    torch.testing.assert_close(model(images), before, atol=1e-6, rtol=1e-5)
    again = models.build(model.config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(images), before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resized_model_can_be_saved_and_loaded(name: str, tmp_path) -> None:
    model = build_random(VARIANTS[name])
    rows, columns = model.config.image_size
    labels = default_labels(model.config.num_classes)
    checkpoint = Checkpoint(model=model, processor=Processor.squash(model.config.image_size), labels=labels)
    checkpoints.save(checkpoint, tmp_path / "a", to="vitkit")
    size = (2 * rows, columns)
    resized = checkpoints.load(tmp_path / "a", image_size=size)
    assert any("resized from" in note for note in resized.origin.notes)
    checkpoints.save(resized, tmp_path / "b", to="vitkit")
    images = torch.randn(1, model.config.channels, *size)
    assert torch.equal(checkpoints.load(tmp_path / "b").model(images), resized.model(images))


def bilinear(old: int, new: int) -> np.ndarray:
    """Returns the matrix of TensorFlow's resize of one axis: half-pixel centers, repeated edges, no antialiasing."""
    matrix = np.zeros((new, old))
    for i in range(new):
        position = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = min(int(position), old - 1)
        high = min(low + 1, old - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, high] += position - low
    return matrix


@pytest.mark.parametrize(("old", "new"), [((8, 8), (12, 12)), ((8, 6), (5, 9)), ((6, 6), (3, 3)), ((4, 4), (7, 4))])
def test_patches_are_resized_by_the_formula_of_the_paper(old: tuple[int, int], new: tuple[int, int]) -> None:
    weight = torch.randn(5, 3, *old, dtype=torch.float64)
    matrix = np.kron(bilinear(old[0], new[0]), bilinear(old[1], new[1]))
    expected = np.einsum("np,dcp->dcn", np.linalg.pinv(matrix.T), weight.reshape(5, 3, -1).numpy())
    np.testing.assert_allclose(resize_patches(weight, new).numpy(), expected.reshape(5, 3, *new), atol=1e-10)


def test_enlarged_patches_have_the_same_tokens() -> None:
    weight, patch = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    large = F.interpolate(patch, size=(20, 12), mode="bilinear", align_corners=False)
    before = torch.einsum("dchw,bchw->bd", weight, patch)
    after = torch.einsum("dchw,bchw->bd", resize_patches(weight, (20, 12)), large)
    torch.testing.assert_close(after, before, atol=1e-10, rtol=0)


def test_the_same_size_returns_the_weights_and_an_empty_size_is_rejected() -> None:
    weight = torch.randn(5, 3, 8, 8)
    assert resize_patches(weight, (8, 8)) is weight
    assert resize_patches(weight.bfloat16(), (4, 4)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="patch size 0x4 is invalid"):
        resize_patches(weight, (0, 4))


@pytest.mark.parametrize("name", [name for name, config in VARIANTS.items() if hasattr(config, "patch_size")])
def test_every_family_with_patches_supports_other_patch_sizes(name: str) -> None:
    model = build_random(VARIANTS[name])
    rows, columns = model.config.image_size
    images = torch.randn(2, model.config.channels, rows, columns)
    if name == "hybrid":
        with pytest.raises(ValueError, match="its patches come from the feature map of its ResNet"):
            model.resize(patch_size=(32, 32))
        assert model.config == VARIANTS[name]
        return
    model.resize(patch_size=(4, 4))
    features = model.features(images)
    assert features.grid == (rows // 4, columns // 4) == model.config.grid
    again = models.build(model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images), model(images))


def test_models_without_patches_and_invalid_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match="BiT has no patches, so the patch size cannot change"):
        build_random(VARIANTS["bit"]).resize(patch_size=(4, 4))
    model = build_random(vit.TINY)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="smaller than one patch"):
        model.resize((4, 4))
    assert model.config == vit.TINY
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_load_and_convert_take_a_patch_size(tmp_path) -> None:
    model = build_random(dataclasses.replace(vit.TINY, position_resize="bilinear_antialias"))
    checkpoint = Checkpoint(model=model, processor=Processor.squash((32, 32)), labels=default_labels(5))
    checkpoints.save(checkpoint, tmp_path / "a", to="vitkit")
    loaded = checkpoints.load(tmp_path / "a", patch_size=16, image_size=64)
    assert (loaded.model.config.patch_size, loaded.model.config.image_size) == ((16, 16), (64, 64))
    assert any("patch size resized from (8, 8) to (16, 16)" in note for note in loaded.origin.notes)
    # Images and patches twice as large, on the same grid, have the same tokens.
    images = torch.randn(2, 3, 32, 32)
    patches = F.interpolate(
        images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(0, 3)[:, None], size=(16, 16), mode="bilinear"
    )
    patches = patches[:, 0].unflatten(0, (2, 3, 4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 64, 64)
    torch.testing.assert_close(loaded.model(patches), model(images), atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match="smaller than one patch"):
        checkpoints.load(tmp_path / "a", patch_size=64)
    checkpoints.convert(tmp_path / "a", tmp_path / "b", "huggingface", patch_size=16)
    assert checkpoints.load(tmp_path / "b").model.config.patch_size == (16, 16)


def test_a_flexivit_file_resizes_positions_as_the_original_code(tmp_path) -> None:
    config = dataclasses.replace(vit.TINY, position_tokens="patches", activation="gelu_tanh")
    checkpoint = Checkpoint(model=build_random(config), processor=Processor.squash((32, 32)), labels=default_labels(5))
    for name, method in (("flexivit_s_i1k.npz", "bilinear_antialias"), ("vit_s.npz", "bilinear_corners")):
        checkpoints.save_checked(checkpoint, tmp_path / name, to="big_vision", lossy=True)
        loaded = checkpoints.load(tmp_path / name, patch_size=4)
        assert loaded.model.config.position_resize == method
        assert loaded.model.config.grid == (8, 8)


FLEXIBLE = dataclasses.replace(vit.TINY, patch_sizes=(4, 8, 16), position_resize="bilinear_antialias")


def test_training_samples_a_patch_size_for_each_batch_and_evaluation_does_not() -> None:
    model, images = build_random(FLEXIBLE), torch.randn(2, 3, 32, 32)
    assert {model.embed(images).grid for _ in range(8)} == {(4, 4)}
    model.train()
    torch.manual_seed(0)
    grids = [model.embed(images).grid for _ in range(60)]
    counts = [grids.count(grid) for grid in ((8, 8), (4, 4), (2, 2))]
    assert sum(counts) == 60
    assert min(counts) >= 10
    torch.manual_seed(0)
    assert [model.embed(images).grid for _ in range(60)] == grids


def test_a_batch_with_another_patch_size_trains_the_native_weights() -> None:
    model, images = build_random(dataclasses.replace(FLEXIBLE, patch_sizes=(16,))), torch.randn(2, 3, 32, 32)
    static = build_random(dataclasses.replace(FLEXIBLE, patch_sizes=()))
    static.resize(patch_size=(16, 16))
    torch.testing.assert_close(model.train()(images), static(images), atol=1e-5, rtol=1e-5)
    model(images).square().sum().backward()
    assert model.patch_embed.proj.weight.grad.shape == (32, 3, 8, 8)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("vit", {"patch_sizes": (0,)}, "each must be between 1 and 32"),
        ("vit", {"patch_sizes": (64,)}, "each must be between 1 and 32"),
        ("hybrid", {"patch_sizes": (16,)}, "its patches come from the feature map of its ResNet"),
    ],
)
def test_unsupported_patch_sizes_are_rejected(family: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(models.family(family).TINY, **changes)


def test_bilinear_antialias_positions_match_jax() -> None:
    """jax.image.resize with "linear": a triangle filter scaled by the downsampling factor, normalized at borders."""
    table = np.random.default_rng(0).standard_normal((7 * 7, 6))
    for new in ((5, 5), (12, 30), (3, 7)):
        matrices = []
        for size in new:
            stretch, center = max(7 / size, 1.0), (np.arange(size) + 0.5) * 7 / size - 0.5
            matrix = np.maximum(0.0, 1 - np.abs(center[:, None] - np.arange(7)[None]) / stretch)
            matrices.append(matrix / matrix.sum(axis=1, keepdims=True))
        expected = np.einsum("rp,cq,pqd->rcd", *matrices, table.reshape(7, 7, 6)).reshape(-1, 6)
        ours = models._positions.resize_tables(torch.from_numpy(table)[None], (7, 7), new, "bilinear_antialias")[0]
        assert ours.shape[0] == math.prod(new)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
