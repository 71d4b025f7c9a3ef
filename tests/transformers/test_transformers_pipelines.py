"""Pipelines compared with those of transformers, and the code samples of its documentation with our import."""

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
from vitkit import ImageError, Limits, ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel, pipeline

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
URL = "https://example.org/cat.png"
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
    """Saves a classifier to a folder whose path is the id of a model of the Hub."""
    torch.manual_seed(0)
    for name in ("google/vit-base-patch16-224", "google/vit-base-patch16-224-in21k"):
        ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(offline_cwd / name)
        ViTImageProcessor().save_pretrained(offline_cwd / name)
    return "google/vit-base-patch16-224"


def png() -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}], ids=str
)
def test_classification_matches_transformers(hf: ModuleType, checkpoint: str, options: dict[str, Any]) -> None:
    reference = hf.ViTForImageClassification.from_pretrained(checkpoint)
    processor = hf.ViTImageProcessorPil.from_pretrained(checkpoint)
    expected = hf.pipeline("image-classification", reference, image_processor=processor, device="cpu")
    got = pipeline("image-classification", checkpoint)
    IMAGE.save("image.png")
    for images in (IMAGE, "image.png", [IMAGE, "image.png"]):
        for reference_result, result in zip(expected(images, **options), got(images, **options), strict=True):
            if isinstance(reference_result, dict):
                assert result["label"] == reference_result["label"]
                assert result["score"] == pytest.approx(reference_result["score"], abs=1e-5)
            else:
                assert [entry["label"] for entry in result] == [entry["label"] for entry in reference_result]


@pytest.mark.parametrize("pool", [False, True])
def test_features_match_transformers(hf: ModuleType, checkpoint: str, pool: bool) -> None:
    ViTModel(ViTConfig(**SMALL)).save_pretrained(checkpoint)
    reference = hf.ViTModel.from_pretrained(checkpoint)
    processor = hf.ViTImageProcessorPil.from_pretrained(checkpoint)
    expected = hf.pipeline("image-feature-extraction", reference, image_processor=processor, device="cpu")
    got = pipeline("image-feature-extraction", model=checkpoint)
    np.testing.assert_allclose(got(IMAGE, pool=pool), expected(IMAGE, pool=pool), atol=1e-5)
    tensor = got(IMAGE, pool=pool, return_tensors=True)
    assert tensor.shape == ((1, 32) if pool else (1, 197, 32))


def test_single_images_lists_and_iterators(checkpoint: str) -> None:
    classify = pipeline(model=checkpoint, batch_size=2)
    assert classify.task == "image-classification"
    one = classify(IMAGE)
    assert [entry["label"] for entry in one] != []
    # The batch size changes the rounding of the last bit.
    close = [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)} for entry in one]
    assert classify([IMAGE] * 3) == [close] * 3
    stream = classify(IMAGE for _ in range(3))
    assert isinstance(stream, Iterator)
    assert list(stream) == [close] * 3
    pixels = np.array(IMAGE)
    assert classify(pixels) == classify(torch.from_numpy(pixels)) == classify(png()) == one
    assert classify(images=IMAGE, top_k=1) == one[:1]
    assert not any(module.training for module in classify.model.modules())


def test_multi_label_models_use_a_sigmoid(checkpoint: str) -> None:
    model = ViTForImageClassification.from_pretrained(checkpoint, problem_type="multi_label_classification")
    scores = pipeline("image-classification", model)(IMAGE, top_k=10)
    assert len(scores) == 6
    assert sum(entry["score"] for entry in scores) != pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("problem", "outputs", "function"),
    [(None, 1, "sigmoid"), ("regression", 1, "none"), ("regression", 3, "none"), (None, 3, "softmax")],
)
def test_the_function_is_that_of_the_problem_type(
    checkpoint: str, problem: str | None, outputs: int, function: str
) -> None:
    settings: dict[str, Any] = {"num_labels": outputs, "problem_type": problem, "ignore_mismatched_sizes": True}
    model = ViTForImageClassification.from_pretrained(checkpoint, **settings)
    classify = pipeline("image-classification", model, image_processor=checkpoint)
    assert classify(IMAGE) == classify(IMAGE, function_to_apply=function)


def test_labels_with_keys_of_strings(checkpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"id2label": {"0": "x", "1": "y"}, "label2id": {"x": "0", "y": "1"}}
    model = ViTForImageClassification.from_pretrained(checkpoint, num_labels=2, ignore_mismatched_sizes=True, **labels)
    assert model.config.id2label == {0: "x", 1: "y"}
    assert model.config.label2id == {"x": "0", "y": "1"}, "as in transformers"
    assert "incompatible" not in caplog.text
    config = ViTConfig.from_pretrained(checkpoint, id2label={"0": "x"})
    assert (config.num_labels, config.label2id) == (1, {"x": 0})


def test_invalid_arguments_raise(checkpoint: str, offline_cwd: Path) -> None:
    (offline_cwd / "broken.png").write_bytes(png()[:60])
    classify = pipeline("image-classification", checkpoint)
    with pytest.raises(ImageError):
        classify("broken.png")
    with pytest.raises(TypeError, match="unexpected keyword argument 'top'"):
        classify(IMAGE, top=3)
    with pytest.raises(ValueError, match="unknown function_to_apply 'tanh'; expected one of softmax, sigmoid, none"):
        classify(IMAGE, function_to_apply="tanh")
    with pytest.raises(ValueError, match="unknown task 'text-generation'; expected one of image-classification"):
        pipeline("text-generation")
    with pytest.raises(TypeError, match="dtype can only be set when loading"):
        pipeline("image-classification", classify.model, dtype="float16")
    with pytest.raises(ValueError, match="pass image_processor="):
        pipeline("image-classification", ViTForImageClassification(ViTConfig(**SMALL)))
    with pytest.raises(ValueError, match="No pooled output was returned"):
        pipeline(
            "image-feature-extraction",
            ViTModel(ViTConfig(**SMALL), add_pooling_layer=False),
            image_processor=checkpoint,
        )(IMAGE, pool=True)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes every URL return the image, and every dataset of the Hub contain it as its first image."""
    requests: list[str] = []

    def urlopen(url: str, timeout: float | None = None) -> Any:
        requests.append(url)
        return io.BytesIO(png())

    class Response(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return png()

    import huggingface_hub.utils

    httpx = SimpleNamespace(stream=lambda method, url: Response(png()))
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(huggingface_hub.utils, "httpx", httpx, raising=False)
    monkeypatch.setitem(
        sys.modules, "requests", SimpleNamespace(get=lambda url, stream: SimpleNamespace(raw=io.BytesIO(png())))
    )
    datasets = SimpleNamespace(load_dataset=lambda name: {"test": {"image": [IMAGE]}})
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    return requests


def samples(hf: ModuleType) -> dict[str, str]:
    """Returns the code samples in the docstrings of transformers' ViT."""
    documented = {
        "ViTConfig": hf.ViTConfig,
        "ViTForImageClassification": hf.ViTForImageClassification.forward,
        "ViTForMaskedImageModeling": hf.ViTForMaskedImageModeling.forward,
        "ImageFeatureExtractionPipeline": hf.ImageFeatureExtractionPipeline,
        "ImageClassificationPipeline": hf.ImageClassificationPipeline,
    }
    found = {}
    for name, obj in documented.items():
        examples = doctest.DocTestParser().get_examples(obj.__doc__.replace("```", ""))
        found[name] = "".join(example.source for example in examples)
    return found


def test_code_samples_of_transformers_docstrings_run(
    hf: ModuleType, checkpoint: str, network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = samples(hf)
    for name, code in found.items():
        assert "from transformers import" in code, name
        changed = code.replace("from transformers import", "from vitkit.transformers import")
        for other in ("microsoft/beit-base-patch16-224-pt22k-ft22k", "google/vit-base-patch16-384"):
            changed = changed.replace(other, checkpoint)
        exec(compile(changed, name, "exec"), {})
    assert capsys.readouterr().out.strip() in SMALL["id2label"].values()
    assert any(url.startswith("https://huggingface.co") for url in network)


MODEL_PAGE = """
import torch, requests
from PIL import Image
from vitkit.transformers import AutoModelForImageClassification, AutoImageProcessor, pipeline

classify = pipeline(
    task="image-classification", model="google/vit-base-patch16-224", torch_dtype=torch.bfloat16, device="cpu"
)
results = classify(images="https://example.org/cat.png")

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


def test_code_of_transformers_model_page_runs(checkpoint: str, network: list[str]) -> None:
    """The two samples of docs/source/en/model_doc/vit.md, with the precision and device of a CPU."""
    scope: dict[str, Any] = {}
    exec(MODEL_PAGE, scope)
    assert scope["results"][0]["label"] == scope["label"]
    assert network == [URL]


def test_failed_and_too_large_downloads_raise(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, timeout: float | None = None) -> Any:
        raise OSError("no route")

    classify = pipeline("image-classification", checkpoint, limits=Limits(max_bytes=20_000))
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(ImageError, match=r"cannot download https://example\.org/cat\.png: no route"):
        classify(URL)
    for url in ("http://[", "http://a b/\ncat.png", "http://"):
        monkeypatch.undo()
        with pytest.raises(ImageError, match=r"cannot download http://") as caught:
            classify(url)
        assert str(caught.value).isprintable()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"x" * 20_001))
    with pytest.raises(ImageError, match="is larger than 20,000 bytes"):
        classify(URL)


@pytest.mark.slow
def test_importing_a_class_loads_few_modules_besides_torch() -> None:
    """Counts modules because import times depend on the load of the machine."""
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


def test_public_names_exist_and_are_sorted() -> None:
    names = vitkit.transformers.__all__
    assert names == sorted(names)
    assert all(getattr(vitkit.transformers, name) is not None for name in names)


def test_code_of_coming_from_transformers_runs(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    oracle("peft")
    page = (Path(__file__).parents[2] / "docs" / "coming-from-transformers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    IMAGE.save("cat.jpg")
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "coming-from-transformers.md", "exec"), scope)
    assert "torch.Size([1, 4, 197, 197])" in capsys.readouterr().out
    assert len(blocks) == 5
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
