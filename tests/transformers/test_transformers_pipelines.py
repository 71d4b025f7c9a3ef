"""Pipelines beside transformers' own, and the code samples of its documentation with the import changed."""

import doctest
import io
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

import vitkit.transformers
from vitkit import ImageError, ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel, pipeline

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
ADDRESS = "https://example.org/cat.png"
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 224,
    "id2label": {0: "cat", 1: "dog", 2: "owl", 3: "bee", 4: "ant", 5: "eel"},
    "initializer_range": 0.2,
}


@pytest.fixture
def checkpoint(offline_cwd: Path) -> str:
    """A classifier in a folder that is called as a model of the hub."""
    torch.manual_seed(0)
    for name in ("google/vit-base-patch16-224", "google/vit-base-patch16-224-in21k"):
        ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(offline_cwd / name)
        ViTImageProcessor().save_pretrained(offline_cwd / name)
    return "google/vit-base-patch16-224"


def png() -> bytes:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}], ids=str
)
def test_classification_is_theirs(theirs: ModuleType, checkpoint: str, options: dict[str, Any]) -> None:
    reference = theirs.ViTForImageClassification.from_pretrained(checkpoint)
    processor = theirs.ViTImageProcessorPil.from_pretrained(checkpoint)
    expected = theirs.pipeline("image-classification", reference, image_processor=processor, device="cpu")
    got = pipeline("image-classification", checkpoint)
    PHOTO.save("photo.png")
    for images in (PHOTO, "photo.png", [PHOTO, "photo.png"]):
        for want, have in zip(expected(images, **options), got(images, **options), strict=True):
            if isinstance(want, dict):
                assert have["label"] == want["label"]
                assert have["score"] == pytest.approx(want["score"], abs=1e-5)
            else:
                assert [entry["label"] for entry in have] == [entry["label"] for entry in want]


@pytest.mark.parametrize("pool", [False, True])
def test_features_are_theirs(theirs: ModuleType, checkpoint: str, pool: bool) -> None:
    ViTModel(ViTConfig(**SMALL)).save_pretrained(checkpoint)
    reference = theirs.ViTModel.from_pretrained(checkpoint)
    processor = theirs.ViTImageProcessorPil.from_pretrained(checkpoint)
    expected = theirs.pipeline("image-feature-extraction", reference, image_processor=processor, device="cpu")
    got = pipeline("image-feature-extraction", model=checkpoint)
    np.testing.assert_allclose(got(PHOTO, pool=pool), expected(PHOTO, pool=pool), atol=1e-5)
    tensor = got(PHOTO, pool=pool, return_tensors=True)
    assert tensor.shape == ((1, 32) if pool else (1, 197, 32))


def test_one_many_and_streams(checkpoint: str) -> None:
    classify = pipeline(model=checkpoint, batch_size=2)
    assert classify.task == "image-classification"
    one = classify(PHOTO)
    assert [entry["label"] for entry in one] != []
    # Batches of other sizes round otherwise in the last bit.
    close = [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)} for entry in one]
    assert classify([PHOTO] * 3) == [close] * 3
    stream = classify(PHOTO for _ in range(3))
    assert isinstance(stream, Iterator)
    assert list(stream) == [close] * 3
    pixels = np.array(PHOTO)
    assert classify(pixels) == classify(torch.from_numpy(pixels)) == classify(png()) == one
    assert classify(images=PHOTO, top_k=1) == one[:1]


def test_multi_label_models_get_a_sigmoid(checkpoint: str) -> None:
    model = ViTForImageClassification.from_pretrained(checkpoint, problem_type="multi_label_classification")
    scores = pipeline("image-classification", model)(PHOTO, top_k=None)
    assert len(scores) == 6
    assert sum(entry["score"] for entry in scores) != pytest.approx(1, abs=0.05)


def test_what_cannot_be_done_is_said(checkpoint: str, offline_cwd: Path) -> None:
    (offline_cwd / "broken.png").write_bytes(png()[:60])
    classify = pipeline("image-classification", checkpoint)
    with pytest.raises(ImageError):
        classify("broken.png")
    with pytest.raises(TypeError, match="unexpected keyword argument 'top'"):
        classify(PHOTO, top=3)
    with pytest.raises(ValueError, match="unknown function_to_apply 'tanh'; there is softmax, sigmoid, none"):
        classify(PHOTO, function_to_apply="tanh")
    with pytest.raises(ValueError, match="unknown task 'text-generation'; there is image-classification"):
        pipeline("text-generation")
    with pytest.raises(TypeError, match="options for loading a model, dtype, but the model is there already"):
        pipeline("image-classification", classify.model, dtype="float16")
    with pytest.raises(ValueError, match="needs image_processor="):
        pipeline("image-classification", ViTForImageClassification(ViTConfig(**SMALL)))
    with pytest.raises(ValueError, match="No pooled output was returned"):
        pipeline(
            "image-feature-extraction",
            ViTModel(ViTConfig(**SMALL), add_pooling_layer=False),
            image_processor=checkpoint,
        )(PHOTO, pool=True)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address gives the photo; every data set of the hub has it as its first picture."""
    asked: list[str] = []

    def urlopen(address: str, timeout: float | None = None) -> Any:
        asked.append(address)
        return io.BytesIO(png())

    class Answer(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return png()

    import huggingface_hub.utils

    httpx = SimpleNamespace(stream=lambda method, url: Answer(png()))
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(huggingface_hub.utils, "httpx", httpx, raising=False)
    monkeypatch.setitem(
        sys.modules, "requests", SimpleNamespace(get=lambda url, stream: SimpleNamespace(raw=io.BytesIO(png())))
    )
    datasets = SimpleNamespace(load_dataset=lambda name: {"test": {"image": [PHOTO]}})
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    return asked


def samples(theirs: ModuleType) -> dict[str, str]:
    """The code in the docstrings of transformers' ViT, taken from the installed package."""
    documented = {
        "ViTConfig": theirs.ViTConfig,
        "ViTForImageClassification": theirs.ViTForImageClassification.forward,
        "ViTForMaskedImageModeling": theirs.ViTForMaskedImageModeling.forward,
        "ImageFeatureExtractionPipeline": theirs.ImageFeatureExtractionPipeline,
        "ImageClassificationPipeline": theirs.ImageClassificationPipeline,
    }
    found = {}
    for name, thing in documented.items():
        examples = doctest.DocTestParser().get_examples(thing.__doc__.replace("```", ""))
        found[name] = "".join(example.source for example in examples)
    return found


def test_code_samples_of_their_docstrings_run_here(
    theirs: ModuleType, checkpoint: str, network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = samples(theirs)
    for name, code in found.items():
        assert "from transformers import" in code, name
        changed = code.replace("from transformers import", "from vitkit.transformers import")
        for other in ("microsoft/beit-base-patch16-224-pt22k-ft22k", "google/vit-base-patch16-384"):
            changed = changed.replace(other, checkpoint)
        exec(compile(changed, name, "exec"), {})
    assert capsys.readouterr().out.strip() in SMALL["id2label"].values()
    assert "theirs" not in str(network)
    assert any(address.startswith("https://huggingface.co") for address in network)


MODEL_PAGE = """
import torch, requests
from PIL import Image
from vitkit.transformers import AutoModelForImageClassification, AutoImageProcessor, pipeline

classify = pipeline(
    task="image-classification", model="google/vit-base-patch16-224", torch_dtype=torch.bfloat16, device="cpu"
)
answer = classify(images="https://example.org/cat.png")

image_processor = AutoImageProcessor.from_pretrained("google/vit-base-patch16-224", use_fast=True)
model = AutoModelForImageClassification.from_pretrained(
    "google/vit-base-patch16-224", torch_dtype=torch.bfloat16, device_map="auto", attn_implementation="sdpa"
)
image = Image.open(requests.get("https://example.org/cat.png", stream=True).raw)
inputs = image_processor(image, return_tensors="pt").to(model.device)
with torch.no_grad():
    logits = model(**inputs).logits
label = model.config.id2label[logits.argmax(dim=-1).item()]
"""


def test_the_calls_of_their_model_page_run_here(checkpoint: str, network: list[str]) -> None:
    """docs/source/en/model_doc/vit.md shows these two ways; half precision and devices as a CPU has them."""
    scope: dict[str, Any] = {}
    exec(MODEL_PAGE, scope)
    assert scope["answer"][0]["label"] == scope["label"]
    assert network == [ADDRESS]


def test_too_large_and_silent_addresses_are_errors(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, timeout: float | None = None) -> Any:
        raise OSError("no route")

    classify = pipeline("image-classification", checkpoint)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ImageError, match="gives no data: no route"):
        classify(ADDRESS)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"x" * 20_000_001))
    with pytest.raises(ImageError, match="gives more than 20,000,000 bytes"):
        classify(ADDRESS)


def test_importing_a_class_costs_little_beyond_torch() -> None:
    """Counted in modules rather than seconds: a machine may be busy."""
    code = """
import sys, torch
before = set(sys.modules)
from vitkit import ViTForImageClassification
new = {name for name in set(sys.modules) - before}
print(len(new), *sorted({name.partition(".")[0] for name in new}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *packages = done.stdout.split()
    assert int(count) < 250, "transformers loads 2,500"
    heavy = {"transformers", "timm", "torchvision", "jax", "huggingface_hub", "matplotlib", "accelerate", "safetensors"}
    assert not heavy & set(packages)


def test_every_public_name_is_there_and_sorted() -> None:
    names = vitkit.transformers.__all__
    assert names == sorted(names)
    assert all(getattr(vitkit.transformers, name) is not None for name in names)


def test_the_code_of_our_own_page_runs(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    oracle("peft")
    page = (Path(__file__).parents[2] / "docs" / "coming-from-transformers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    PHOTO.save("cat.jpg")
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "coming-from-transformers.md", "exec"), scope)
    assert "torch.Size([1, 4, 197, 197])" in capsys.readouterr().out
    assert len(blocks) == 3
    assert sorted(path.name for path in Path("my-model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    named = re.findall(r"`vitkit(?:\.transformers)?\.(ViT\w+|pipeline|BatchFeature)`", page)
    assert set(named) <= set(vitkit.transformers.__all__)
    table = page.partition("## Better")[0]
    public = set(vitkit.transformers.__all__) - {"ModelOutput"}
    assert not [name for name in public if f"`{name}`" not in table and f'`{name}("' not in table]
