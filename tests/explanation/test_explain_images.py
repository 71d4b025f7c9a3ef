"""Output of explanations: PNG files, .npz files, the command line, and rollout on real images."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import noise_images, small

from vitkit import checkpoints, explanation, models
from vitkit.cli import main
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.explanation import ExplainInputs, Overlay, _inputs, _plots, explain
from vitkit.explanation._plots import CAPTION, CELL, DPI, FOOTER, MARGIN, TITLE, overlay
from vitkit.models import Backbone
from vitkit.plugins.contracts import explanation as contract

LABELS = ("one", "two", "three", "four", "five")


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def random_subject(model: Backbone, sizes: list[tuple[int, int]]) -> ExplainInputs:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    processor = Processor.squash(model.config.image_size)
    return _inputs.read(model, processor, images, LABELS)


@pytest.mark.parametrize("method", ["attention", "distance", "foreground", "gradient", "rollout"])
def test_every_explanation_of_images_works_for_every_family(tiny: Backbone, method: str) -> None:
    inputs = random_subject(tiny, [(40, 60), (60, 40)])
    explanation = explain(method, inputs)
    for name, values in explanation.arrays.items():
        assert np.isfinite(values).all(), name
    if isinstance(explanation.drawing, Overlay):
        assert explanation.drawing.images == inputs.images
        assert all(caption.split()[0] in LABELS for caption in explanation.drawing.captions)
        grid = tiny.features(inputs.pixels).grid
        assert all(each.values.shape == (2, *grid) for each in explanation.drawing.maps)


@pytest.mark.parametrize("method", explanation.methods())
def test_every_method_keeps_the_contract(method: str) -> None:
    torch.manual_seed(0)
    for check in contract.CHECKS:
        check(method)


@pytest.mark.parametrize("method", explanation.methods())
def test_every_explanation_is_saved_as_a_figure(method: str, tmp_path: Path) -> None:
    explanation.explain(method, random_subject(small("vit"), [(40, 60)])).save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert np.asarray(image.convert("L")).std() > 5, "the figure is blank"


def test_methods_are_the_files_of_the_folder() -> None:
    assert explanation.methods() == [
        *("attention", "distance", "filters", "foreground", "gradient", "pca", "positions", "rollout"),
    ]
    with pytest.raises(ValueError, match="unknown explanation 'rolout'; did you mean 'rollout'"):
        explanation.explain("rolout", ExplainInputs(small("vit"), torch.empty(0, 3, 32, 32)))


def test_an_unknown_option_raises() -> None:
    model = small("vit")
    with pytest.raises(ValueError, match="'rollout' has no option 'share'; its options are: layer, fusion, discard"):
        explanation.explain("rollout", ExplainInputs(model, noise_images(model)), share=0.5)
    with pytest.raises(ValueError, match="'distance' has no option 'layer'; its options are: none"):
        explanation.explain("distance", ExplainInputs(model, noise_images(model)), layer=1)


@pytest.mark.parametrize("method", ["attention", "distance", "foreground", "gradient", "rollout"])
def test_an_explanation_of_images_without_images_raises(method: str) -> None:
    with pytest.raises(ValueError, match="needs at least one image"):
        explanation.explain(method, ExplainInputs(small("vit"), torch.empty(0, 3, 32, 32)))


def test_figure_size_and_deterministic_files(tmp_path: Path) -> None:
    explanation = explain("rollout", random_subject(small("vit"), [(40, 60), (60, 40)]))
    explanation.save(tmp_path / "a.png")
    explanation.save(tmp_path / "b.png")
    wide, high = CELL * 2 / 3 + CAPTION, CELL * 3 / 2 + CAPTION
    width = 3 * (CELL + MARGIN) + MARGIN
    height = TITLE + wide + high + FOOTER
    assert png_size(tmp_path / "a.png") == pytest.approx((width * DPI, height * DPI), abs=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match=r"the output file is '.*a\.jpg'; its name must end in \.png"):
        explanation.save(tmp_path / "a.jpg")


def test_many_heads_and_long_titles_are_wrapped() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=32, num_heads=16, pool="gap", num_classes=0))
    image = Image.new("RGB", (64, 64))
    figure = _plots.draw(
        explanation.explain("attention", ExplainInputs(model, torch.zeros(1, 3, 32, 32), (image,))).drawing
    )
    # The image, the mean, 16 heads and the color bar in rows of 7.
    assert len(figure.axes) == 1 + 1 + 16 + 1
    assert figure.get_figwidth() == pytest.approx(7 * (CELL + MARGIN) + MARGIN)
    assert figure.get_figheight() == pytest.approx(TITLE + 3 * (CELL + CAPTION) + FOOTER)
    one = _plots.draw(
        explanation.explain(
            "attention", ExplainInputs(model, torch.zeros(1, 3, 32, 32), (image,)), layer=0, head=0
        ).drawing
    )
    assert one.get_figheight() > TITLE + CELL + CAPTION + FOOTER


def test_map_styles() -> None:
    image = Image.new("RGB", (40, 20), (255, 128, 0))
    values = np.array([[0.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    colors = np.array([255, 128, 0]) / 255
    mask = overlay(image, values, "mask")
    assert mask.shape == (20, 40, 3)
    np.testing.assert_allclose(mask[10:, 20:], np.broadcast_to(colors, (10, 20, 3)), atol=1e-6)
    assert np.abs(mask[:10] - colors).max() > 0.3
    light = overlay(image, values, "light")
    np.testing.assert_allclose(light[-1, -1], colors, atol=1e-6)
    np.testing.assert_allclose(light[0, 0], 0, atol=0.03)
    heat = overlay(image, values, "heat").mean(axis=-1)
    assert heat[-1, -1] > heat[0, 0] + 0.3
    flat = overlay(image, np.ones((2, 2), dtype=np.float32), "heat")
    assert np.isfinite(flat).all()


def test_the_displayed_image_is_what_the_model_sees() -> None:
    original = Image.fromarray(np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1)))
    model = small("vit")
    squashed = _inputs.large_view(Processor.squash(32), original)
    assert squashed.size == (1024, 512), "the shape of the original, not of the input"
    cropped = _inputs.large_view(Processor.crop(32, 0.875), original)
    assert cropped.size == (512, 512)
    gray = np.asarray(cropped.convert("L"), dtype=float)
    seen = np.asarray(Processor.crop(32, 0.875).image(original).convert("L"), dtype=float)
    shrunk = np.asarray(cropped.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float)
    assert np.abs(shrunk - seen).max() < 4
    assert gray.min() > 30, "the cropped sides are not shown"
    unresized = _inputs.read(model, Processor(size=(32, 32), resize="none"), [Image.new("RGB", (44, 32))])
    assert unresized.pixels.shape == (1, 3, 32, 44)
    assert unresized.images[0].width / unresized.images[0].height == pytest.approx(40 / 32, rel=0.01), "5 patches of 8"


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.jpg: "):
        _inputs.read(small("vit"), Processor.squash(32), [tmp_path / "broken.jpg"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and two images."""
    root = tmp_path_factory.mktemp("explain")
    checkpoint = checkpoints.Checkpoint(model=small("vit"), processor=Processor.squash(32), labels=LABELS)
    checkpoints.save(checkpoint, root / "model")
    for name in ("a", "b"):
        Image.effect_noise((60, 40), 80).convert("RGB").save(root / f"{name}.png")
    return root


@pytest.mark.slow
def test_the_command_saves_the_figure_and_the_arrays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, arrays = tmp_path / "out.png", tmp_path / "out.npz"
    command = ["explain", str(folder / "model"), str(folder / "a.png"), str(folder / "b.png"), "--out", str(out)]
    assert main([*command, "--arrays", str(arrays)]) == 0
    assert "Attention rollout to the class token" in capsys.readouterr().out
    assert png_size(out)[0] == pytest.approx((3 * (CELL + MARGIN) + MARGIN) * DPI, abs=2)
    with np.load(arrays) as saved:
        assert {name: saved[name].shape for name in saved} == {"rollout": (2, 17, 17), "maps": (2, 4, 4)}
    assert main([*command, "--method", "attention", "--layer", "0", "--head", "1", "--arrays", str(arrays)]) == 0
    with np.load(arrays) as saved:
        shapes = {name: saved[name].shape for name in saved}
    assert shapes == {"layers": (1,), "weights": (2, 1, 2, 17, 17), "maps": (2, 1, 2, 4, 4)}


@pytest.mark.parametrize("method", ["positions", "filters"])
def test_explanations_of_the_model_need_no_image(folder: Path, tmp_path: Path, method: str) -> None:
    assert main(["explain", str(folder / "model"), "--out", str(tmp_path / "out.png"), "--method", method]) == 0
    assert png_size(tmp_path / "out.png")[0] > 500


def test_errors_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(folder / "model"), str(tmp_path / "out.png")
    for arguments, message in [
        ([model, "--out", out], "needs at least one image"),
        ([model, str(folder / "a.png"), "--out", str(tmp_path / "out.jpg")], "its name must end in .png"),
        ([model, str(folder / "a.png"), "--out", out, "--share", "0.5"], "'rollout' has no option 'share'"),
        ([model, str(folder / "none.png"), "--out", out], "none.png: the file cannot be opened"),
    ]:
        assert main(["explain", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_help_imports_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys\nfrom vitkit.cli import main\ntry:\n    main(['explain', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(explanation.methods()) <= set(done.stdout.replace("{", " ").replace("}", " ").replace(",", " ").split())


def test_rollout_of_a_real_model_lies_on_the_object(shared: Path, tmp_path: Path) -> None:
    """Rollout minus its minimum is larger inside hand-annotated object boxes than outside."""
    from safetensors.torch import load_file

    model = models.build(models.preset("vit-ti/16"), initialize=False)
    model.load_state_dict(load_file(shared / "weights/deit_tiny_patch16_224/model.safetensors"))
    processor = Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    # Left, top, right and bottom of the object, as fractions of the crop.
    boxes = {
        "n01440764_tench": (0.0, 0.38, 1.0, 0.8),
        "n02165105_tiger_beetle": (0.0, 0.38, 0.85, 0.8),
        "n03532672_hook": (0.05, 0.15, 0.75, 0.95),
        "n01980166_fiddler_crab": (0.1, 0.25, 1.0, 0.85),
    }
    files = [next((shared / "data/imagenet_sample").glob(f"{name.split('_')[0]}_*")) for name in boxes]
    maps = explanation.explain("rollout", _inputs.read(model, processor, files)).arrays["maps"]
    center = (np.arange(14) + 0.5) / 14
    for values, (left, top, right, bottom) in zip(maps, boxes.values(), strict=True):
        inside = np.outer((center > top) & (center < bottom), (center > left) & (center < right))
        above = values - values.min()
        assert above[inside].mean() > 1.5 * above[~inside].mean()
        assert above[inside].sum() > 0.5 * above.sum()
