"""Examples of the documentation of transformers 4 with a changed import, and local folders for the ids of the Hub."""

import io
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

from vitkit import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel
from vitkit.transformers import image_processors

# Compilation dominates the run time of small Flax models, as in tests/jax.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
PIXELS = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
LABELS = {index: f"animal {index}" for index in range(7)}
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 32,
    "initializer_range": 0.1,
}

FEATURE_EXTRACTOR = """
from transformers import ViTFeatureExtractor, ViTForImageClassification
from PIL import Image
import requests

url = 'http://images.cocodataset.org/val2017/000000039769.jpg'
image = Image.open(requests.get(url, stream=True).raw)

feature_extractor = ViTFeatureExtractor.from_pretrained('google/vit-base-patch16-224')
model = ViTForImageClassification.from_pretrained('google/vit-base-patch16-224')

inputs = feature_extractor(images=image, return_tensors="pt")
outputs = model(**inputs)
logits = outputs.logits
# model predicts one of the 1000 ImageNet classes
predicted_class_idx = logits.argmax(-1).item()
print("Predicted class:", model.config.id2label[predicted_class_idx])
"""

FLAX_MODEL = """
from transformers import AutoImageProcessor, FlaxViTModel
from PIL import Image
import requests

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)

image_processor = AutoImageProcessor.from_pretrained("google/vit-base-patch16-224-in21k")
model = FlaxViTModel.from_pretrained("google/vit-base-patch16-224-in21k")

inputs = image_processor(images=image, return_tensors="np")
outputs = model(**inputs)
last_hidden_states = outputs.last_hidden_state
"""

FLAX_CLASSIFIER = """
from transformers import AutoImageProcessor, FlaxViTForImageClassification
from PIL import Image
import jax
import requests

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)

image_processor = AutoImageProcessor.from_pretrained("google/vit-base-patch16-224")
model = FlaxViTForImageClassification.from_pretrained("google/vit-base-patch16-224")

inputs = image_processor(images=image, return_tensors="np")
outputs = model(**inputs)
logits = outputs.logits

# model predicts one of the 1000 ImageNet classes
predicted_class_idx = jax.numpy.argmax(logits, axis=-1)
print("Predicted class:", model.config.id2label[predicted_class_idx.item()])
"""

RESNET = """
from transformers import AutoFeatureExtractor, AutoModelForImageClassification
from PIL import Image
import requests
import torch

image = Image.open(requests.get("http://images.cocodataset.org/val2017/000000039769.jpg", stream=True).raw)

feature_extractor = AutoFeatureExtractor.from_pretrained("microsoft/resnet-50")
model = AutoModelForImageClassification.from_pretrained("microsoft/resnet-50")

inputs = feature_extractor(image, return_tensors="pt")

with torch.no_grad():
    logits = model(**inputs).logits

# model predicts one of the 1000 ImageNet classes
predicted_label = logits.argmax(-1).item()
print(model.config.id2label[predicted_label])
"""
# The preprocessor_config.json of microsoft/resnet-50.
RESNET_PREPROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}


@pytest.fixture
def hub(offline_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Saves two folders under the ids of the Hub, and makes every download return the image."""
    torch.manual_seed(0)
    config = ViTConfig(**CONFIG, id2label=LABELS)
    for name, model in (
        ("google/vit-base-patch16-224", ViTForImageClassification(config)),
        ("google/vit-base-patch16-224-in21k", ViTModel(config)),
    ):
        model.save_pretrained(offline_cwd / name)
        ViTImageProcessor().save_pretrained(offline_cwd / name)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "png")
    requests = SimpleNamespace(get=lambda url, stream: SimpleNamespace(raw=io.BytesIO(buffer.getvalue())))
    monkeypatch.setitem(sys.modules, "requests", requests)
    return offline_cwd


def run(code: str, library: str) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(
        compile(re.sub("^from transformers import", f"from {library} import", code, flags=re.MULTILINE), "x", "exec"),
        scope,
    )
    return scope


def expected(hf: ModuleType, name: str, folder: Path) -> Any:
    """Returns the output of transformers 5 with its PIL processor."""
    pixels = hf.ViTImageProcessorPil.from_pretrained(folder)(Image.fromarray(PIXELS), return_tensors="pt")
    with torch.no_grad():
        return getattr(hf, name).from_pretrained(folder)(**pixels)


def test_feature_extractor_and_classifier(hf: ModuleType, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = expected(hf, "ViTForImageClassification", hub / "google/vit-base-patch16-224").logits
    scope = run(FEATURE_EXTRACTOR, "vitkit")
    torch.testing.assert_close(scope["logits"], logits, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().out == f"Predicted class: {LABELS[int(logits.argmax())]}\n"


def test_auto_classes_on_a_resnet(hf: ModuleType, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub / "microsoft/resnet-50"
    torch.manual_seed(0)
    config = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 1], id2label=LABELS)
    model = hf.ResNetForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier[1].weight)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(RESNET_PREPROCESSOR))
    pixels = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")(Image.fromarray(PIXELS), return_tensors="pt")
    with torch.no_grad():
        logits = model(**pixels).logits
    scope = run(RESNET, "vitkit")
    assert torch.equal(scope["inputs"].pixel_values, pixels["pixel_values"])
    torch.testing.assert_close(scope["logits"], logits, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().out == f"{LABELS[int(logits.argmax())]}\n"


def test_flax_model_and_classifier(hf: ModuleType, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle("flax")
    tokens = expected(hf, "ViTModel", hub / "google/vit-base-patch16-224-in21k").last_hidden_state
    scope = run(FLAX_MODEL, "vitkit")
    np.testing.assert_allclose(scope["last_hidden_states"], tokens.numpy(), atol=1e-5)
    capsys.readouterr()
    logits = expected(hf, "ViTForImageClassification", hub / "google/vit-base-patch16-224").logits
    run(FLAX_CLASSIFIER, "vitkit")
    assert capsys.readouterr().out == f"Predicted class: {LABELS[int(logits.argmax())]}\n"


def test_feature_extractors_of_other_families_are_importable() -> None:
    for name in ("DeiTFeatureExtractor", "BeitFeatureExtractor", "ConvNextFeatureExtractor", "ViTFeatureExtractor"):
        assert getattr(image_processors, name)().model_input_names == ["pixel_values"]
