"""Preprocessing, augmentation and sources of images with any number of channels."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from band_files import array_file, tiff
from oracles import oracle
from PIL import Image

from vitkit.data import source
from vitkit.data.augment import Augment, Transform, read_options
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter
from vitkit.data.loader import Stream, evaluation_batches, training_batches
from vitkit.data.processor import Processor, draft, resampling
from vitkit.images import Bands, ImageError

RANDOM = np.random.default_rng(0)
CHANNELS = (1, 2, 4, 5, 12)


def processors(channels: int) -> list[Processor]:
    mean, std = tuple(np.linspace(0.2, 0.6, channels)), tuple(np.linspace(0.1, 0.3, channels))
    given = [
        Processor.squash((16, 20), mean=mean, std=std),
        Processor.crop(24, 0.875, mean=mean, std=std),
        Processor(resize="longest", size=(30, 30), center_crop="torchvision", mean=mean, std=std, fill=(7,)),
        Processor(resize="none", size=(99, 99), center_crop="huggingface", mean=mean, std=std, fill=(5,)),
        Processor.squash(16, mean=mean, std=std, interpolation="lanczos"),
    ]
    return given if channels > 1 else given[:2]


@pytest.mark.parametrize("channels", CHANNELS)
def test_each_band_is_preprocessed_as_a_grayscale_image(channels: int) -> None:
    pixels = RANDOM.integers(0, 256, (37, 29, channels), dtype=np.uint8)
    for processor in processors(channels):
        alone = [
            dataclasses.replace(processor, mean=(mean,), std=(std,), fill=processor.fill[:1]).array(pixels[..., band])
            for band, (mean, std) in enumerate(zip(processor.mean, processor.std, strict=True))
        ]
        expected = np.concatenate(alone)
        for image in (pixels, np.moveaxis(pixels, -1, 0), torch.from_numpy(np.moveaxis(pixels, -1, 0).copy())):
            np.testing.assert_array_equal(processor.array(image), expected)
        for data in (tiff(pixels), array_file(pixels)) if channels > 1 else (array_file(pixels),):
            np.testing.assert_array_equal(processor.array(data), expected)
            np.testing.assert_array_equal(draft.array(processor, data), expected)
            np.testing.assert_array_equal(resampling.array(processor, io.BytesIO(data)), expected)
        if channels > 1:
            levels = torch.from_numpy(processor.pixels(pixels))[None]
            np.testing.assert_array_equal(resampling.normalize_on_device(processor, levels)[0].numpy(), expected)


def test_a_batch_of_arrays_and_the_value_of_white() -> None:
    processor = Processor.squash(8, mean=(0.5,) * 6, std=(0.5,) * 6, data_range=1000)
    wide = RANDOM.integers(0, 1500, (3, 9, 7, 6), dtype=np.uint16)
    expected = np.stack(
        [processor.array(np.rint(np.clip(each * (255 / 1000), 0, 255)).astype(np.uint8)) for each in wide]
    )
    np.testing.assert_array_equal(processor(wide).numpy(), expected)
    np.testing.assert_array_equal(processor(list(wide)).numpy(), expected)
    np.testing.assert_array_equal(processor([tiff(each) for each in wide]).numpy(), expected)
    np.testing.assert_array_equal(
        processor(torch.from_numpy(wide.astype(np.int32)).permute(0, 3, 1, 2)).numpy(), expected
    )
    assert not np.array_equal(processor(wide, data_range=2000).numpy(), expected)
    with pytest.raises(ValueError, match="6 channels"):
        processor(wide[..., :5])


def test_three_bands_of_an_array_file_are_rgb() -> None:
    pixels = RANDOM.integers(0, 256, (37, 29, 3), dtype=np.uint8)
    for processor in (Processor.crop(16), Processor.squash(16, interpolation="lanczos")):
        expected = processor.array(pixels)
        for read in (Processor.array, draft.array, resampling.array):
            wanted = expected if read is not resampling.array else resampling.array(processor, Image.fromarray(pixels))
            np.testing.assert_array_equal(read(processor, array_file(pixels)), wanted)
        with pytest.raises(ImageError, match="expected 3 channels on the first or last axis"):
            processor.array(array_file(pixels[..., :2]))


def test_rgba_keeps_alpha() -> None:
    pixels = RANDOM.integers(0, 256, (20, 20, 4), dtype=np.uint8)
    processor = Processor.squash(20, mean=(0.0,) * 4, std=(1.0,) * 4)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    for given in (image, file):
        np.testing.assert_array_equal(np.rint(processor.array(given) * 255), np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("channels", CHANNELS)
def test_settings_of_any_number_of_channels_are_saved(channels: int) -> None:
    for processor in processors(channels):
        saved = json.loads(json.dumps(processor.to_huggingface()))
        assert Processor.from_huggingface(saved) == processor
        assert Processor.from_huggingface({**saved, "image_mean": list(processor.mean)}) == processor
    ranged = dataclasses.replace(processors(channels)[0], data_range=10_000)
    assert Processor.from_huggingface(json.loads(json.dumps(ranged.to_huggingface()))) == ranged


def test_transformers_reads_the_same_values_from_a_file_of_four_channels() -> None:
    transformers = oracle("transformers")
    processor = Processor.squash(16, mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7, 0.8))
    theirs = transformers.ViTImageProcessorPil(**processor.to_huggingface())
    pixels = RANDOM.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    result = theirs(pixels, input_data_format="channels_last", return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(processor.array(pixels), result, atol=1e-6)


def test_timm_settings_of_other_channels() -> None:
    cfg = {"input_size": (4, 32, 32), "mean": (0.1, 0.2, 0.3, 0.4), "std": (0.5,) * 4}
    assert Processor.from_timm(cfg).mean == cfg["mean"]
    extended = Processor.from_timm({"input_size": (5, 32, 32)})
    assert extended.mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    gray = Processor.from_timm({"input_size": (1, 32, 32), "mean": (0.1, 0.2, 0.6), "std": (0.5, 0.5, 0.5)})
    assert gray.mean == pytest.approx((0.3,))
    assert Processor.from_timm({"input_size": (7, 32, 32), "mean": (0.5,), "std": (0.5,)}).mean == (0.5,) * 7
    with pytest.raises(ValueError, match="2 values cannot be extended to 4 channels; expected 1, 3 or 4"):
        Processor.from_timm({**cfg, "mean": (0.1, 0.2)})


AUGMENTS = {
    "tensorflow": Augment(crop=Crop(kind="tensorflow", resampling="bilinear_aliased"), flip=True),
    "torchvision": Augment(crop=Crop(kind="torchvision"), flip=True),
    "simple": Augment(crop=Crop(kind="simple", padding=3)),
    "moved": Augment(rotate=20.0, shift=0.2, zoom=0.2, flip=True),
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_each_band_is_augmented_alike(name: str) -> None:
    pixels = RANDOM.integers(0, 256, (33, 41, 5), dtype=np.uint8)
    processor = Processor.squash(16, mean=(0.5,) * 5, std=(0.5,) * 5)
    gray = Processor.squash(16, mean=(0.5,), std=(0.5,))
    for seed in range(4):
        transform, alone = Transform(processor, AUGMENTS[name]), Transform(gray, AUGMENTS[name])
        result = transform(Bands.from_array(pixels), np.random.default_rng(seed))
        expected = [alone(Image.fromarray(pixels[..., band]), np.random.default_rng(seed)) for band in range(5)]
        np.testing.assert_array_equal(result, np.concatenate(expected))


def test_color_augmentation_needs_rgb() -> None:
    processor = Processor.squash(16, mean=(0.5,) * 4, std=(0.5,) * 4)
    for augment in (Augment(three_augment=True), Augment(jitter=Jitter(brightness=0.3))):
        with pytest.raises(
            ValueError,
            match="the processor has 4 channels; randaugment, jitter and three_augment need an RGB processor",
        ):
            Transform(processor, augment)


def _folder(path: Path, suffix: str, channels: int) -> dict[str, np.ndarray]:
    images = {}
    for label in "ab":
        (path / label).mkdir(parents=True)
        for number in range(4):
            pixels = RANDOM.integers(0, 256, (18, 21, channels), dtype=np.uint8)
            images[f"{label}/{number}{suffix}"] = pixels
            (path / label / f"{number}{suffix}").write_bytes((tiff if suffix == ".tif" else array_file)(pixels))
    return images


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("kind", ["folder", "csv", "jsonl", "parquet"])
def test_sources_of_bands(tmp_path: Path, suffix: str, kind: str) -> None:
    images = _folder(tmp_path, suffix, 5)
    name = f"folder:{tmp_path}"
    if kind == "csv":
        (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{key},{key[0]}\n" for key in images))
        name = f"csv:{tmp_path / 'a.csv'}"
    elif kind == "jsonl":
        lines = [json.dumps({"path": key, "label": key[0]}) for key in images]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        name = f"jsonl:{tmp_path / 'a.jsonl'}"
    elif kind == "parquet":
        pyarrow, parquet = oracle("pyarrow"), oracle("pyarrow.parquet")
        rows = [{"image": {"bytes": (tmp_path / key).read_bytes()}, "label": key[0]} for key in images]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
        name = f"parquet:{tmp_path / 'a.parquet'}"
    processor = Processor.squash(16, mean=(0.5,) * 5, std=(0.5,) * 5)
    found = source(name)
    expected = np.stack([processor.array(pixels) for pixels in images.values()])
    example = found.read(0, **read_options(processor))
    assert isinstance(example.image, Bands)
    (batch,) = evaluation_batches(found, Transform(processor), batch_size=8)
    np.testing.assert_array_equal(batch.images.numpy(), expected)
    augment = Augment(
        flip=True, erasing=Erasing(probability=1.0), mixing=Mixing(mixup=0.4, cutmix=1.0, ratio="sampled")
    )
    trained = next(iter(training_batches(found, Transform(processor, augment), Stream(batch_size=4))))
    assert trained.images.shape == (4, 5, 16, 16)
    # The error of an image with another number of channels names it.
    with pytest.raises(ImageError, match=r"the (image|array) has .*; expected 4"):
        found.read(0, channels=4)


def test_a_folder_with_images_has_no_arrays(tmp_path: Path) -> None:
    _folder(tmp_path, ".npy", 3)
    assert len(source(f"folder:{tmp_path}")) == 8
    for label in "ab":
        Image.new("RGB", (9, 9)).save(tmp_path / label / "x.png")
    assert len(source(f"folder:{tmp_path}")) == 2
