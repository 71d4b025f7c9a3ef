"""Thumbnails of a report: small images are lossless, and all together keep to a budget."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, features

from vitkit.report import thumbnails


def noise(side: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/webp", "data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_small_images_are_lossless() -> None:
    (uri,) = thumbnails.encode([noise(64, 0)], 100_000)
    assert decoded(uri).convert("RGB").tobytes() == noise(64, 0).tobytes()


def test_the_budget_chooses_the_size() -> None:
    images = [noise(192, seed) for seed in range(6)]
    sides = []
    for budget in (400_000, 60_000, 20_000):
        found = thumbnails.encode(images, budget)
        assert sum(map(len, found)) <= budget
        assert len(found) == 6
        sides.append(decoded(found[0]).width)
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == thumbnails.LARGEST > sides[1] > sides[2]
    least = thumbnails.encode(images, 5_000)
    assert 0 < len(least) < 6
    assert thumbnails.encode([], 100) == []


def test_without_webp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    assert decoded(thumbnails.data_uri(noise(200, 0), 192, 80)).format == "JPEG"
    assert decoded(thumbnails.data_uri(noise(20, 0), 192, 80)).format == "PNG"
