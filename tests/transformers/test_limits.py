"""`limits` of a pipeline bound the size of image files."""

import io

import numpy as np
import pytest
from PIL import Image

from vitkit.images import ImageError, Limits
from vitkit.transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline


def test_a_pipeline_has_limits() -> None:
    config = ViTConfig(
        image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = ViTForImageClassification(config)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(buffer, "PNG")
    data = buffer.getvalue()
    for limits, code in (
        (None, None),
        (Limits(max_pixels=600, max_bytes=len(data)), None),
        (Limits(max_pixels=599), "too_many_pixels"),
        (Limits(max_bytes=len(data) - 1), "too_large"),
    ):
        classify = pipeline("image-classification", model, image_processor=processor, limits=limits)
        if code is None:
            assert classify(data)
        else:
            with pytest.raises(ImageError) as caught:
                classify(data)
            assert caught.value.code == code
