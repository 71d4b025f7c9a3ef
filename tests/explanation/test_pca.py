"""Principal components of patch features: oracles, determinism, the foreground, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image
from small_models import small

from vitkit import checkpoints, explanation, models
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.explanation import ExplainInputs, Map, Overlay, _inputs
from vitkit.explanation._plots import overlay
from vitkit.explanation.pca import component_colors, foreground_patches, patch_features, principal_components


def test_components_match_scikit_learn() -> None:
    decomposition = oracle("sklearn.decomposition")
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    axes, fractions = principal_components(vectors)
    theirs = decomposition.PCA(3, svd_solver="full").fit(vectors.double().numpy())
    for ours, other in zip(axes.T.numpy(), theirs.components_, strict=True):
        np.testing.assert_allclose(np.abs(ours @ other), 1.0, atol=1e-9)
        assert ours[np.abs(ours).argmax()] > 0
    np.testing.assert_allclose(fractions.numpy(), theirs.explained_variance_ratio_, atol=1e-9)


def test_components_of_narrow_and_of_equal_vectors() -> None:
    axes, fractions = principal_components(torch.randn(5, 2))
    assert axes.shape == (2, 3)
    assert float(fractions.sum()) == pytest.approx(1.0)
    assert principal_components(torch.ones(5, 4))[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_what_differs_from_the_border(sign: int) -> None:
    features = 0.01 * torch.randn(2, 6, 8, 4, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(2, 6, 8, dtype=torch.bool)
    inside[0, 2:4, 2:5] = inside[1, 1:5, 3:6] = True
    features[inside] += sign * torch.tensor([3.0, -1.0, 2.0, 0.0])
    assert torch.equal(foreground_patches(features), inside)


def test_colors_are_the_components_of_the_foreground() -> None:
    features = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    foreground = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.4
    colors, _ = component_colors(features, foreground)
    assert (colors[~foreground] == 0).all()
    assert colors[foreground].amin(dim=0).tolist() == [0.0, 0.0, 0.0]
    assert colors[foreground].amax(dim=0).tolist() == [1.0, 1.0, 1.0]
    vectors = features[foreground].double().numpy()
    centered = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    for component in range(3):
        scores = centered @ axes[component]
        expected = (scores - scores.min()) / (scores.max() - scores.min())
        found = colors[foreground][:, component].numpy()
        assert min(np.abs(found - expected).max(), np.abs(found - 1 + expected).max()) < 1e-6


def inputs_of(model: models.Backbone) -> ExplainInputs:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(2)]
    return _inputs.read(model, Processor.squash(model.config.image_size), images, tuple("abcde"))


@pytest.mark.parametrize("family", models.families())
def test_every_family_and_the_same_result_twice(family: str) -> None:
    model = small(family)
    inputs = inputs_of(model)
    first, second = (explanation.explain("pca", inputs, layer=0) for _ in range(2))
    for name, values in first.arrays.items():
        assert np.isfinite(values).all()
        assert np.array_equal(values, second.arrays[name])
    features = patch_features(model, inputs.pixels, 0)
    assert first.arrays["colors"].shape == (*features.shape[:3], 3)
    assert isinstance(first.drawing, Overlay)
    everything = explanation.explain("pca", inputs, all_patches=True)
    assert everything.arrays["foreground"].all()
    grid = model.features(inputs.pixels).grid
    assert everything.arrays["colors"].shape == (2, *grid, 3)


def test_an_rgb_map_shows_its_colors_only() -> None:
    values = np.zeros((2, 2, 3), dtype=np.float32)
    values[0, 1] = (1.0, 0.5, 0.0)
    shown = overlay(Image.new("RGB", (4, 4), "white"), Map("x", values[None], "rgb").values[0], "rgb")
    assert shown.shape == (4, 4, 3)
    np.testing.assert_allclose(shown[0, 3], (1, 128 / 255, 0), atol=1e-6)
    assert (shown[2:] == 0).all()


@pytest.mark.parametrize("method", ["pca", "rollout", "attention", "positions"])
def test_the_image_size_of_the_command(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.build(models.family("vit").TINY)
    processor = Processor.squash(32)
    checkpoints.save(
        checkpoints.Checkpoint(model=model, processor=processor, labels=tuple("abcde")), tmp_path / "model"
    )
    Image.effect_noise((90, 70), 60).save(tmp_path / "image.png")
    images = [] if method == "positions" else [str(tmp_path / "image.png")]
    arrays = tmp_path / "arrays.npz"
    command = ["explain", str(tmp_path / "model"), *images, "--method", method, "--image-size", "64"]
    assert main([*command, "--out", str(tmp_path / "out.png"), "--arrays", str(arrays)]) == 0
    name = {"pca": "colors", "rollout": "maps", "attention": "maps", "positions": "similarity"}[method]
    with np.load(arrays) as saved:
        shape = saved[name].shape
    assert shape[-3:-1] == (8, 8) if method == "pca" else shape[-2:] == (8, 8)
    capsys.readouterr()
    assert main([*command[:-1], "4", "--out", str(tmp_path / "out.png")]) == 1
    assert "4" in capsys.readouterr().err


def test_all_patches_is_an_option_of_pca_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.build(models.family("vit").TINY)
    saved = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=tuple("abcde"))
    checkpoints.save(saved, tmp_path / "model")
    Image.effect_noise((90, 70), 60).save(tmp_path / "image.png")
    command = ["explain", str(tmp_path / "model"), str(tmp_path / "image.png"), "--out", str(tmp_path / "out.png")]
    assert main([*command, "--method", "pca", "--all-patches"]) == 0
    assert "all patches" in capsys.readouterr().out
    assert main([*command, "--all-patches"]) == 1
    assert "'rollout' has no option 'all_patches'" in capsys.readouterr().err
