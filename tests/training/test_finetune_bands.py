"""Fine-tuning an RGB checkpoint on images of four bands, and everything that then reads the model and its images."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from band_files import array_file, tiff
from oracles import oracle
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.training import train
from vitkit.training.finetune import finetune

NOTE = "input weights adapted from 3 to 4 channels: repeated red, green, blue, ... times 3/4"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RGB checkpoint `rgb`, and `tiles` of 16-bit TIFF files whose class is visible in the fourth band only."""
    root = tmp_path_factory.mktemp("bands")
    torch.manual_seed(0)
    config = dataclasses.replace(vit.TINY, image_size=(16, 16))
    checkpoint = checkpoints.Checkpoint(
        model=models.build(config), processor=Processor.squash(16), labels=tuple("abcde")
    )
    checkpoints.save(checkpoint, root / "rgb")
    generator = np.random.default_rng(0)
    for name, level in (("bare", 2_000), ("grown", 8_000)):
        (root / "tiles" / name).mkdir(parents=True)
        for index in range(20):
            pixels = generator.integers(0, 10_000, (18, 20, 4))
            pixels[..., 3] = level + generator.integers(-1_500, 1_500, (18, 20))
            data = tiff(pixels.astype(np.uint16), planar=bool(index % 2), deflate=True, predictor=2)
            (root / "tiles" / name / f"{index}.tif").write_bytes(data)
    return root


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The folder of a fine-tuning run on the tiles."""
    out = root / "run"
    words = ["finetune", str(root / "rgb"), "--data", f"folder:{root / 'tiles'}", "--out", str(out), "--channels", "4"]
    words += ["--steps", "60", "--lr", "0.05", "--batch-size", "8"]
    settings = ["processor.data_range=10000", "hardware.device=cpu", "hardware.threads=1", "precision=float32"]
    assert main([*words, "--set", *settings]) == 0
    return out


@pytest.mark.slow
def test_the_class_in_the_fourth_band_is_learned(trained: Path) -> None:
    events = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert events[-1]["kind"] == "evaluation" or any(event["kind"] == "evaluation" for event in events)
    assert [event for event in events if event["kind"] == "evaluation"][-1]["top1.accuracy"] == 1.0
    (start,) = (event for event in events if event["kind"] == "start")
    assert any(note.startswith(NOTE) for note in start["notes"])
    assert (
        "data:image" in (trained / "report.html").read_text() or "None: every" in (trained / "report.html").read_text()
    )


def test_commands_read_images_of_four_bands(
    root: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    best, tiles = str(trained / "best"), root / "tiles"
    assert main(["classify", best, str(tiles), "--json", "--top", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 40
    assert all(row["predictions"][0]["label"] == Path(row["path"]).parent.name for row in rows)
    assert main(["evaluate", best, "--data", f"folder:{tiles}", "--json", "--out", str(tmp_path / "e")]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["top1.accuracy"] == 1.0
    assert main(["explain", best, str(tiles / "bare/0.tif"), "--out", str(tmp_path / "e.png")]) == 0
    with Image.open(tmp_path / "e.png") as drawn:
        assert drawn.size[0] > 100
    # An RGB image is an error of that image.
    Image.new("RGB", (20, 20)).save(tmp_path / "rgb.jpg")
    assert main(["classify", best, str(tmp_path / "rgb.jpg"), str(tiles / "bare/0.tif")]) == 2
    assert "the image has 3 channels; expected 4" in capsys.readouterr().out


def test_a_wrong_image_in_the_report_is_shown(root: Path, trained: Path, tmp_path: Path) -> None:
    for name in ("bare", "grown"):
        (tmp_path / "data" / name).mkdir(parents=True)
        other = {"bare": "grown", "grown": "bare"}[name]
        for index in range(2):
            data = (root / "tiles" / other / f"{index}.tif").read_bytes()
            (tmp_path / "data" / name / f"{index}.tif").write_bytes(data)
    assert (
        main(["evaluate", str(trained / "best"), "--data", f"folder:{tmp_path / 'data'}", "--out", str(tmp_path / "e")])
        == 0
    )
    data = (tmp_path / "e/report.html").read_text().partition('id="mistakes-data">')[2].partition("</script>")[0]
    assert [row[6] is None for row in json.loads(data)["rows"]] == [False] * 4


def test_inspect_states_the_adaptation(root: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(root / "rgb"), "--set", "channels=4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"]["channels"] == 4
    assert facts["origin"]["notes"][-1].startswith(NOTE)
    assert facts["preprocessing"]["mean"] == [0.5] * 4
    assert main(["inspect", str(trained / "best"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"]["data_range"] == 10_000


@pytest.mark.parametrize("name", ["huggingface", "timm", "vitkit"])
def test_conversions_have_the_same_outputs(root: Path, trained: Path, tmp_path: Path, name: str) -> None:
    classifier = vitkit.load(trained / "best")
    vitkit.convert(trained / "best", tmp_path / "m", name)
    again = vitkit.load(tmp_path / "m")
    images = classifier.processor([root / "tiles/bare/0.tif", root / "tiles/grown/1.tif"])
    assert again.processor == classifier.processor
    torch.testing.assert_close(again(images), classifier(images), rtol=1e-5, atol=1e-5)
    if name == "huggingface":
        theirs = oracle("transformers").ViTForImageClassification.from_pretrained(tmp_path / "m").eval()
        torch.testing.assert_close(theirs(images).logits, classifier(images), rtol=1e-4, atol=1e-4)
    if name == "timm":
        theirs = oracle("timm").create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
        torch.testing.assert_close(theirs(images), classifier(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "make"), [(1, "png"), (1, "npy"), (3, "npy"), (6, "npy")])
def test_other_channels_train(root: Path, tmp_path: Path, channels: int, make: str) -> None:
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(8):
            pixels = generator.integers(level - 50, level + 50, (18, 20, channels), dtype=np.uint8)
            path = tmp_path / "data" / name / f"{index}.{make}"
            if make == "png":
                Image.fromarray(pixels[..., 0]).save(path)
            else:
                path.write_bytes(array_file(pixels[..., 0] if channels == 1 else pixels))
    run = finetune(str(root / "rgb"), f"folder:{tmp_path / 'data'}", channels=channels, steps=20, lr=0.05, batch_size=8)
    run = dataclasses.replace(run, precision="float32", hardware=dataclasses.replace(run.hardware, device="cpu"))
    assert run.model.channels == channels == run.processor.channels
    assert train(run, tmp_path / "run").score == 1.0


def test_color_augmentation_is_rejected_before_the_first_step(root: Path, tmp_path: Path) -> None:
    run = finetune(str(root / "rgb"), f"folder:{root / 'tiles'}", channels=4, steps=1)
    run = dataclasses.replace(run, augment=dataclasses.replace(run.augment, three_augment=True))
    with pytest.raises(
        ValueError, match="the processor has 4 channels; randaugment, jitter and three_augment need an RGB processor"
    ):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # Without --channels, an RGB model would ignore bands.
    with pytest.raises(ValueError, match=r"bare/\d+\.tif has 4 bands, .* use --channels 4, or --channels 3"):
        finetune(str(root / "rgb"), f"folder:{root / 'tiles'}", steps=1)
    assert finetune(str(root / "rgb"), f"folder:{root / 'tiles'}", channels=3, steps=1).model.channels == 3
