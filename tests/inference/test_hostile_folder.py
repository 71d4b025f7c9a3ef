"""A folder of images, one in twenty of them broken: exactly these are reported, and other results do not change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor

BROKEN = {
    "empty": (lambda data: b"", "not_an_image"),
    "text": (lambda data: b"<html>not found</html>", "not_an_image"),
    "cut": (lambda data: data[: -len(data) // 3], "truncated"),
    "postscript": (lambda data: b"%!PS-Adobe-3.0", "unsupported_format"),
}


@pytest.fixture
def folder(num: int, tmp_path: Path) -> Path:
    """Small JPEG files and a tiny model."""
    root = tmp_path
    (root / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(num):
        rows, columns = generator.integers(24, 48, 2)
        pixels = generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{index:04}.jpg", quality=90)
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("a", "b", "c"))
    checkpoints.save(checkpoint, root / "model")
    return root


def rows(folder: Path, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, dict]:
    assert main(["classify", str(folder / "model"), str(folder / "photos"), "--json", "--batch-size", "1"]) == code
    captured = capsys.readouterr()
    return {Path(row["path"]).name: row for row in map(json.loads, captured.out.splitlines())}


@pytest.mark.parametrize("num", [160, pytest.param(1000, marks=pytest.mark.slow)])
def test_exactly_the_broken_images_are_reported(num: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = rows(folder, capsys, 0)
    assert len(clean) == num
    expected = {}
    kinds = list(BROKEN.values())
    for order, index in enumerate(np.random.default_rng(1).choice(num, num // 20, replace=False)):
        path = folder / "photos" / f"{index:04}.jpg"
        breaking, code = kinds[order % len(kinds)]
        path.write_bytes(breaking(path.read_bytes()))
        expected[path.name] = code
    broken = rows(folder, capsys, 2)
    assert list(broken) == list(clean)
    assert {name: row["error"]["code"] for name, row in broken.items() if "error" in row} == expected
    for name, row in broken.items():
        if name not in expected:
            # One image per batch: bitwise equal outputs, and equal JSON.
            assert row["predictions"] == clean[name]["predictions"]
        else:
            assert str(folder) not in row["error"]["message"]


@pytest.mark.slow
def test_class_does_not_depend_on_color_mode(shared: Path, tmp_path: Path) -> None:
    """Confidently classified images have the same class as gray, RGBA, palette and CMYK files."""
    import vitkit

    model = vitkit.load(shared / "weights" / "deit_tiny_patch16_224")
    paths = sorted((shared / "data" / "imagenet_sample").iterdir())[::8]
    confident = [path for path, (first, *_) in model.classify(paths, top=1) if first.score > 0.8]
    assert len(confident) >= 5
    gray_same = 0
    for path in confident[:5]:
        rgb = Image.open(path).convert("RGB")
        images = {
            "rgb.png": rgb,
            "gray.png": rgb.convert("L"),
            "rgba.png": rgb.convert("RGBA"),
            "palette.png": rgb.quantize(256),
            "cmyk.tif": rgb.convert("CMYK"),
        }
        for name, image in images.items():
            image.save(tmp_path / name)
        results = model.classify([tmp_path / name for name in images], top=1)
        found = {Path(name).name: first.label for name, (first,) in results}
        gray = found.pop("gray.png")
        assert set(found.values()) == {found["rgb.png"]}, f"{path.name}: {found}"
        gray_same += gray == found["rgb.png"]
    # A gray file has less information: an Afghan hound becomes a spaniel.
    assert gray_same >= 4
