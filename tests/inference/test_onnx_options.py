"""ONNX exports with a dynamic image size, in float16 and in int8: equal outputs, and rejections in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from slow_cases import slow_except
from test_exporters import checkpoint, needs

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.images import DEFAULT_LIMITS
from vitkit.inference import runtimes
from vitkit.inference.runtimes import _quantized
from vitkit.inference.runtimes._trace import fixed_size_reason
from vitkit.models import vit

# Families with a dynamic image size, and options that change what is resized. One block is enough: tracing takes
# seconds per block, and positions are resized before the blocks, or in each of them alike.
ONE = {"depth": 1}
DYNAMIC: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", ONE),
    "antialias": ("vit", ONE | {"position_resize": "bicubic_antialias", "num_registers": 2, "position_tokens": "all"}),
    "offset": ("vit", ONE | {"position_resize": "bicubic_offset", "pool": "gap"}),
    "bicubic": ("vit", ONE | {"position_resize": "bicubic", "class_token": False, "pool": "map"}),
    "factorized": ("vit", ONE | {"position": "factorized"}),
    "sincos2d": ("vit", ONE | {"position": "sincos2d"}),
    "layers": ("vit", {"depth": 2, "position_at": "layers"}),
    "deit": ("deit", ONE),
    "dinov3": ("dinov3", ONE),
    "beit": ("beit", ONE | {"relative_resize": "bilinear", "position": "learned"}),
    "axial": ("axial", ONE),
    "bit": ("bit", {}),
    "resnet": ("resnet", {}),
}
FIXED = {
    "beit": ("beit", {}, "geometric steps"),
    "relative": ("vit", {"position": "relative"}, "averaged over pairs of patches"),
    "hybrid": ("hybrid", {}, "the padding of its convolutions"),
    "bit": ("bit", {"padding": "same", "order": "post"}, "the padding of its convolutions"),
    "axial_resnet": ("axial_resnet", {}, "interpolated for every stage"),
}


def assert_equal_at(opened: Any, made: checkpoints.Checkpoint, sizes: list[tuple[int, int]], tolerance: float) -> None:
    for (height, width), batch in zip(sizes, (1, 4, 2, 3), strict=False):
        images = torch.randn(batch, made.model.config.channels, height, width)
        with torch.inference_mode():
            features, found = made.model.features(images), opened.features(images)
            assert (found.grid, found.num_special) == (features.grid, features.num_special)
            assert found.map.shape == features.map.shape
            expected = made.model.logits(features)
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(opened(images), expected, atol=tolerance * scale, rtol=0)
            scale = max(1.0, float(features.tokens.abs().max()))
            torch.testing.assert_close(found.tokens, features.tokens, atol=tolerance * scale, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dynamic_size_equals_the_model_at_every_size(name: str, tmp_path: Path) -> None:
    needs("onnx")
    family, changes = DYNAMIC[name]
    made = checkpoint(family, **changes)
    export = runtimes.export(made, tmp_path / "out", to="onnx", dynamic_size=True)
    assert export.dynamic_size
    opened = vitkit.load(tmp_path / "out")
    rows, columns = made.model.config.image_size
    patch = getattr(made.model.config, "patch_size", (8, 8))
    # Sizes that the export was not tested with.
    sizes = [(rows, columns), (3 * rows, columns + patch[1]), (2 * patch[0], 5 * patch[1]), (4 * patch[0], columns)]
    assert_equal_at(opened, made, sizes, 2e-4)
    odd = torch.zeros(1, made.model.config.channels, rows + 3, columns + 5)
    if hasattr(made.model.config, "patch_size"):
        with pytest.raises(ValueError, match=f"images of {rows + 3}x{columns + 5} pixels do not consist of patches"):
            opened(odd)
    else:
        assert_equal_at(opened, made, [(rows + 3, columns + 5)], 2e-4)


@pytest.mark.parametrize("name", FIXED)
def test_a_size_that_must_be_fixed_is_rejected_with_the_reason(name: str, tmp_path: Path) -> None:
    family, changes, reason = FIXED[name]
    made = checkpoint(family, **changes)
    assert reason in fixed_size_reason(made.model.config)
    with pytest.raises(runtimes.ExportError, match=f"cannot have a dynamic image size: .*{reason}") as error:
        runtimes.export(made, tmp_path / "out", to="onnx", dynamic_size=True)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_all_other_families_have_a_dynamic_size() -> None:
    names = {family for family, _ in DYNAMIC.values()} | {"dino", "mae"}
    assert names | {family for family, _, _ in FIXED.values()} == set(models.families())
    assert all(not fixed_size_reason(models.family(name).TINY) for name in names - {"beit"})


@pytest.mark.parametrize("target", ["openvino", "program"])
def test_other_targets_have_a_fixed_size(target: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{target} has a fixed image size; use --to onnx for a dynamic size"):
        runtimes.export(checkpoint(), tmp_path / "out", to=target, dynamic_size=True)


def photos(folder: Path, number: int = 6) -> Path:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(number):
        small = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        small.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of a checkpoint and of its exports with a dynamic size, by precision."""
    root = tmp_path_factory.mktemp("dynamic")
    made = checkpoint(depth=1)
    checkpoints.save(made, root / "model")
    photos(root / "photos")

    def folder(precision: str) -> Path:
        needs("onnx")
        if not (root / precision).exists():
            options = ["--precision", precision, "--out", str(root / precision), "--dynamic-size"]
            calibration = ["--calibration", str(root / "photos")] if precision == "int8" else []
            assert main(["export", str(root / "model"), "--to", "onnx", *options, *calibration]) == 0
        return root / precision

    return folder


@pytest.mark.parametrize("precision", slow_except(["float16", "int8"], "int8"))
def test_a_lower_precision_is_smaller_and_close(precision: str, dynamic: Callable[[str], Path]) -> None:
    folder = dynamic(precision)
    made = checkpoints.load(folder.parent / "model")
    opened = vitkit.load(folder)
    export = json.loads((folder / "config.json").read_text())["export"]
    assert (export["precision"], export["dynamic_size"]) == (precision, True)
    if precision == "float16":
        assert_equal_at(opened, made, [(32, 32), (40, 64)], 2e-2)
        weights = sum(parameter.numel() for parameter in made.model.parameters())
        assert (folder / "model.onnx").stat().st_size < 2.2 * weights + 60_000
        return
    images = made.processor(sorted((folder.parent / "photos").iterdir()))
    off, agreement = _quantized.compare(made.model, opened.model, images)
    assert (off, agreement) == (export["difference"], export["agreement"])
    assert 0 < off <= _quantized.DIFFERENCE
    import onnx

    nodes = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    # Patch embedding, qkv, proj, two layers of the MLP and the head have 8-bit weights; attention does not.
    assert nodes.count("DequantizeLinear") >= 12
    assert vitkit.load(folder)(torch.zeros(2, 3, 48, 32)).isfinite().all()


def test_int8_needs_calibration_images_and_other_precisions_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        runtimes.export(checkpoint(), tmp_path / "out", to="onnx", precision="int8")
    with pytest.raises(ValueError, match="only int8 uses calibration images, but the precision is float32"):
        runtimes.export(checkpoint(), tmp_path / "out", to="onnx", calibration=[Image.new("RGB", (8, 8))])
    (tmp_path / "broken.png").write_bytes(b"nothing")
    broken = [tmp_path / "broken.png", np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"none of 1 calibration images could be read; .*broken\.png: "):
        runtimes.export(checkpoint(), tmp_path / "out", to="onnx", precision="int8", calibration=broken[:1])
    found = []
    arguments = (checkpoint(), "int8", broken, DEFAULT_LIMITS, found.append)
    assert runtimes._calibration_images(*arguments).shape == (1, 3, 32, 32)  # type: ignore[union-attr]
    assert [str(each).partition(":")[0] for each in found] == [str(tmp_path / "broken.png")]
    runtimes._calibration_images(*arguments[:4], runtimes._warn)
    assert f"skipped a calibration image: {tmp_path / 'broken.png'}: " in caplog.text


@pytest.mark.slow
def test_the_command_skips_and_names_calibration_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("onnx")
    checkpoints.save(checkpoint(depth=1), tmp_path / "model")
    photos(tmp_path / "photos")
    Image.new("RGB", (60, 50)).save(tmp_path / "photos" / "large.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"nothing")
    command = ["export", str(tmp_path / "model"), "--to", "onnx", "--precision", "int8", "--out", str(tmp_path / "out")]
    calibration = ["--calibration", str(tmp_path / "photos")]
    assert main([*command, *calibration, "--max-pixels", "2000"]) == 2
    out, err = capsys.readouterr()
    assert "predictions agree" in out
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()[:2]] == [
        str(tmp_path / "photos" / name) for name in ("broken.png", "large.png")
    ]
    assert err.splitlines()[2] == "vitkit: 2 calibration images could not be read and left out"
    assert main([*command, *calibration, "--max-bytes", "10", "--overwrite"]) == 1
    assert "none of 8 calibration images could be read" in capsys.readouterr().err


def test_a_runtime_without_int8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the precision is 'int8', but program supports only float32"):
        runtimes.export(checkpoint(), tmp_path / "out", to="program", precision="int8")


def test_the_limits_of_an_int8_model_are_stated() -> None:
    assert _quantized.differs(0.1, 0.95, 100) == ""
    assert _quantized.differs(0.1, 0.5, 2) == ""  # one image may always differ
    assert "differ by 50.0% of their standard deviation, the limit is 30%" in _quantized.differs(0.5, 1.0, 100)
    assert "same class for 80% of the calibration images, the limit is 90%" in _quantized.differs(0.1, 0.8, 100)
    assert _quantized.differs(float("nan"), 1.0, 100) != ""


@pytest.mark.slow
def test_an_inaccurate_int8_model_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnx")
    monkeypatch.setattr(_quantized, "compare", lambda *_: (0.1, 0.2))
    monkeypatch.setattr(runtimes.runtime("onnx"), "quantize", lambda *_: None)
    images = [Image.open(path) for path in photos(tmp_path / "photos").iterdir()]
    with pytest.raises(runtimes.ExportError, match="not accurate enough: it predicts the same class for 20%"):
        runtimes.export(checkpoint(depth=1), tmp_path / "out", to="onnx", precision="int8", calibration=images)
    assert not (tmp_path / "out").exists()


def test_the_image_size_of_a_dynamic_export_can_change(dynamic: Callable[[str], Path], tmp_path: Path) -> None:
    folder = dynamic("int8")
    opened = vitkit.load(folder, image_size=64)
    assert opened.model.config.image_size == (64, 64)
    assert opened.processor.size == (64, 64)
    assert opened.features(opened.processor([Image.new("RGB", (90, 70))])).grid == (8, 8)
    with pytest.raises(ValueError, match="exported model, whose num_classes cannot be changed"):
        vitkit.load(folder, num_classes=3)
    with pytest.raises(ValueError, match="smaller than one patch"):
        opened(torch.zeros(1, 3, 4, 64))
    with pytest.raises(ValueError, match="3 input channels, but the images have 1"):
        opened(torch.zeros(1, 1, 32, 32))
    image = tmp_path / "image.png"
    Image.effect_noise((90, 70), 60).save(image)
    assert main(["classify", str(folder), str(image), "--image-size", "48"]) == 0


@pytest.mark.slow
def test_the_size_of_other_exports_is_fixed(tmp_path: Path) -> None:
    made = checkpoints.Checkpoint(model=models.build(vit.TINY), processor=Processor.squash(32), labels=tuple("abcde"))
    runtimes.export(made, tmp_path / "out", to="program")
    with pytest.raises(ValueError, match="image_size cannot be changed"):
        vitkit.load(tmp_path / "out", image_size=64)
    with pytest.raises(ValueError, match="are fixed; export the checkpoint again"):
        vitkit.load(tmp_path / "out").model.resize((64, 64))
