"""Reduced decoding of large JPEG files: close to full decoding, and equal where it does not apply."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vitkit import models
from vitkit.data.processor import Processor, draft
from vitkit.images import ImageError, turbo
from vitkit.inference import Predictor
from vitkit.kernels import resize

needs_both = pytest.mark.skipif(
    turbo.equal_decoder() is None or not resize.available(), reason="needs simplejpeg and a C compiler at installation"
)


def jpeg(rows: int, columns: int, **options: object) -> bytes:
    """Return a JPEG with smooth shapes and a little noise."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((columns, rows), 3)
    noise = random.integers(-6, 7, (rows, columns, 3))
    pixels = np.clip(np.asarray(coarse.filter(ImageFilter.GaussianBlur(2))) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    mode = options.pop("mode", "RGB")
    Image.fromarray(pixels).convert(str(mode)).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


@needs_both
@pytest.mark.parametrize(
    ("processor", "size", "fraction"),
    [
        (Processor.squash(64), (1030, 1100), 8),
        (Processor.squash(64), (515, 2000), 4),
        (Processor.crop(48, 0.75), (300, 450), 2),
        (Processor.squash((32, 100)), (1000, 401), 2),
    ],
)
def test_it_is_close_to_full_decoding(processor: Processor, size: tuple[int, int], fraction: int) -> None:
    decoded: list[tuple[int, ...]] = []
    full_decode = turbo._decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turbo, "_decode", lambda *given: decoded.append(given[3:]) or full_decode(*given))
        found = draft.array(processor, jpeg(*size))
    assert decoded == [(fraction,)]
    expected = processor.array(jpeg(*size))
    assert found.shape == expected.shape
    error = np.abs(found - expected) * 127.5
    assert error.mean() < 2.5, "pixel values"


@pytest.mark.parametrize(
    ("given", "interpolation"),
    [
        (jpeg(100, 120), "bicubic"),
        (jpeg(3, 200), "lanczos"),
        (jpeg(1, 3), "bicubic"),
        (jpeg(600, 700), "lanczos"),
        (jpeg(600, 700, mode="L"), "bicubic"),
        (jpeg(600, 700, mode="CMYK"), "bicubic"),
        (np.full((600, 700, 3), 7, np.uint8), "bicubic"),
        (Image.new("RGB", (700, 600), (1, 2, 3)), "bicubic"),
    ],
    ids=["small", "three rows", "three pixels", "another filter", "gray", "cmyk", "array", "image"],
)
def test_it_equals_full_decoding_where_it_does_not_apply(given: object, interpolation: str) -> None:
    processor = Processor.squash(64, interpolation=interpolation)  # type: ignore[arg-type]
    assert np.array_equal(draft.array(processor, given), processor.array(given))


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    processor = Processor.squash(64)
    rotated = jpeg(600, 700, exif=exif)
    assert np.array_equal(draft.array(processor, rotated), processor.array(rotated))


def test_it_equals_full_decoding_without_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbo, "equal_decoder", lambda: None)
    processor, data = Processor.squash(64), jpeg(600, 700)
    assert np.array_equal(draft.array(processor, data), processor.array(data))


def test_errors_are_the_same() -> None:
    data = jpeg(600, 700)
    for bad in (data[: len(data) // 2], b"not an image", data[:200]):
        with pytest.raises(ImageError) as full:
            Processor.squash(64).array(bad)
        with pytest.raises(ImageError) as drafted:
            draft.array(Processor.squash(64), bad)
        assert drafted.value.code == full.value.code


def test_a_predictor_uses_the_chosen_resampling(tmp_path: Path) -> None:
    model = models.build(models.family("vit").TINY).eval()
    rows, columns = model.config.image_size
    (tmp_path / "large.jpg").write_bytes(jpeg(600, 700))
    processor = Processor.squash((rows, columns))
    outputs = {}
    for resampling in ("pillow", "torch", "draft"):
        predictor = Predictor(model, processor, precision="float32", resampling=resampling)
        (outcome,) = predictor.logits([tmp_path / "large.jpg"])
        outputs[resampling] = outcome.output
    assert all(output is not None for output in outputs.values())
    with pytest.raises(ValueError, match="unknown resampling 'magick'; choose one of pillow, torch, draft"):
        Predictor(model, processor, resampling="magick")  # type: ignore[arg-type]
