"""Options and inputs of pipelines, and transformers' own pipelines with vitkit's models and processors."""

import base64
import copy
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from oracle_pipelines4 import results
from PIL import Image

import vitkit.transformers
from vitkit import ImageError, ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel, pipeline
from vitkit.transformers import outputs
from vitkit.transformers.pipelines import KeyDataset, Pipeline

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8)) for seed in range(5)
]
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "id2label": {index: f"class {index}" for index in range(6)},
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**CONFIG)).save_pretrained(path)
    ViTModel(ViTConfig(**CONFIG)).save_pretrained(path / "bare")
    ViTImageProcessor(size=32).save_pretrained(path)
    IMAGES[0].save(path / "image.png")
    return path


@pytest.fixture(scope="module")
def classify(folder: Path) -> Pipeline:
    return pipeline("image-classification", str(folder), device="cpu")


def close(given: Any, expected: Any) -> None:
    """Compares nested results; labels are equal, numbers are close."""
    assert type(given) is type(expected)
    if isinstance(given, list):
        assert len(given) == len(expected)
        for pair in zip(given, expected, strict=True):
            close(*pair)
    elif isinstance(given, dict):
        assert given.keys() == expected.keys()
        for key in given:
            close(given[key], expected[key])
    else:
        assert given == (pytest.approx(expected, abs=1e-5) if isinstance(given, float) else expected)


def test_pipelines_of_transformers_5_take_our_classes(hf: ModuleType, folder: Path) -> None:
    close(results(vitkit.transformers, folder), results(hf, folder))


@pytest.mark.slow
def test_pipelines_of_transformers_4_take_our_classes(folder: Path) -> None:
    packages = os.environ.get("VITKIT_TRANSFORMERS4")
    if not packages or not Path(packages).is_dir():
        pytest.skip("needs transformers 4: run scripts/transformers4.py FOLDER and set VITKIT_TRANSFORMERS4=FOLDER")
    run = [sys.executable, str(Path(__file__).with_name("oracle_pipelines4.py")), str(folder)]
    path = os.pathsep.join([packages, str(Path(vitkit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    both = json.loads(done.stdout.splitlines()[-1])
    close(both["vitkit"], both["transformers"])


def test_outputs_and_processors_pass_isinstance_of_transformers(hf: ModuleType) -> None:
    output = outputs.ImageClassifierOutput(logits=torch.zeros(1, 2))
    processor = ViTImageProcessor(size=32)
    assert isinstance(output, hf.utils.ModelOutput)
    assert isinstance(output, outputs.ModelOutput)
    assert isinstance(processor, hf.image_processing_utils.BaseImageProcessor)
    for each in (output, processor):
        for again in (copy.deepcopy(each), copy.copy(each), pickle.loads(pickle.dumps(each))):
            assert type(again) is type(each)
    assert type(output) is outputs.ImageClassifierOutput
    assert output.__class__.__name__ == "ImageClassifierOutput"
    assert pickle.loads(pickle.dumps(processor)).to_dict() == processor.to_dict()
    assert not isinstance(processor, hf.utils.ModelOutput)


CREATION: list[dict[str, Any]] = [
    {"top_k": 2},
    {"function_to_apply": "sigmoid"},
    {"use_fast": True, "framework": "pt", "num_workers": 2, "batch_size": 2},
    {"model_kwargs": {"attn_implementation": "eager"}},
    {"device_map": "cpu", "torch_dtype": "float32", "trust_remote_code": False, "revision": None, "token": None},
    {"dtype": torch.float64},
    {"tokenizer": None, "top_k": None},
]


@pytest.mark.parametrize("options", CREATION, ids=str)
def test_options_of_creation_equal_transformers(hf: ModuleType, folder: Path, options: dict[str, Any]) -> None:
    five = {name: value for name, value in options.items() if name not in ("framework", "token", "torch_dtype")}
    where = {} if "device_map" in options else {"device": "cpu"}
    processor = hf.ViTImageProcessorPil.from_pretrained(folder)
    expected = hf.pipeline("image-classification", str(folder), image_processor=processor, **five, **where)
    got = pipeline("image-classification", str(folder), **options, **where)
    close(got(IMAGES), expected(IMAGES))
    assert got.dtype == got.torch_dtype == expected.model.dtype
    close(got(IMAGES[0], top_k=3), expected(IMAGES[0], top_k=3))


def test_datasets_generators_and_lists_give_equal_results(hf: ModuleType, classify: Pipeline) -> None:
    from transformers.pipelines.pt_utils import KeyDataset as TheirKeyDataset

    class Dataset(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(IMAGES)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": IMAGES[index], "label": index}

    expected = [classify(image) for image in IMAGES]
    for inputs in (TheirKeyDataset(Dataset(), "image"), KeyDataset(Dataset(), "image"), (image for image in IMAGES)):
        stream = classify(inputs, batch_size=2, num_workers=1)
        assert isinstance(stream, Iterator)
        close(list(stream), expected)
    close(classify(list(IMAGES), batch_size=3), expected)
    close(classify.predict(IMAGES[0]), expected[0])
    with pytest.raises(
        TypeError, match=r"an image is a dict with the keys image, label; pass KeyDataset\(dataset, key\) instead"
    ):
        list(classify(Dataset()))
    with pytest.raises(TypeError, match=r"the input is a dict with the keys image; pass an image"):
        classify({"image": IMAGES[0]})


def test_data_uris_and_steps(classify: Pipeline, folder: Path) -> None:
    buffer = io.BytesIO()
    IMAGES[0].save(buffer, "png")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    expected = classify(IMAGES[0])
    close(classify(uri), expected)
    close(classify.postprocess(classify.forward(classify.preprocess(uri))), expected)
    close(classify.postprocess(classify.forward(classify.preprocess(IMAGES[0])), top_k=1), expected[:1])
    with pytest.raises(ImageError, match="the data URI is not valid base64"):
        classify("data:image/png;base64,???")
    with pytest.raises(ImageError, match="the data URI is not valid base64"):
        classify("data:image/png;base64,\u00e9")
    errors = classify([IMAGES[0], "data:image/png;base64,???"], errors="return")
    close(errors[0], expected)
    assert isinstance(errors[1], ImageError)
    classify.save_pretrained(folder / "again")
    close(pipeline(model=folder / "again", device=-1)(IMAGES[0]), expected)


def test_features(hf: ModuleType, folder: Path) -> None:
    settings = {"image_processor_kwargs": {"size": {"height": 16, "width": 32}}}
    model = ViTModel.from_pretrained(folder / "bare")
    embed = pipeline("image-feature-extraction", model, image_processor=str(folder), pool=True)
    assert np.shape(embed(IMAGES[0])) == (1, 32)
    assert np.shape(embed(IMAGES[0], pool=False)) == (1, 17, 32)
    assert embed.image_processor.size == {"height": 32, "width": 32}
    with pytest.raises(ValueError, match=r"Input image size \(16\*32\) doesn't match model"):
        embed(IMAGES[0], **settings)
    assert pipeline(model=model, image_processor=embed.image_processor).task == "image-feature-extraction"
    classifier = pipeline("image-feature-extraction", ViTForImageClassification.from_pretrained(folder))
    assert np.shape(classifier(IMAGES[0])) == (1, 6), "the first output of a classifier is the logits"


def test_other_families_and_libraries(tmp_path: Path) -> None:
    from vitkit import checkpoints, models
    from vitkit.checkpoints import preprocessing

    config = models.vit.Config(
        image_size=(32, 32), patch_size=(8, 8), width=32, depth=1, num_heads=2, mlp_width=64, num_classes=3
    )
    torch.manual_seed(0)
    checkpoint = checkpoints.Checkpoint(
        model=models.build(config).eval(), processor=preprocessing.meta(config, 0.9), labels=("ant", "bee", "cat")
    )
    torch.nn.init.normal_(checkpoint.model.get_parameter("head.weight"))
    checkpoints.save(checkpoint, tmp_path / "timm", to="timm")
    ((_, expected),) = vitkit.load(tmp_path / "timm").classify(IMAGES[0], top=3)
    got = pipeline("image-classification", tmp_path / "timm", device="cpu")(IMAGES[0])
    assert [each["label"] for each in got] == [each.label for each in expected]
    assert [each["score"] for each in got] == pytest.approx([each.score for each in expected], abs=1e-5)


def test_objects_of_transformers(hf: ModuleType, classify: Pipeline, folder: Path) -> None:
    model = ViTForImageClassification.from_pretrained(folder)
    for name in ("ViTImageProcessorPil", "ViTImageProcessor"):
        theirs = getattr(hf, name).from_pretrained(folder)
        got = pipeline("image-classification", model, image_processor=theirs, device="cpu")
        assert type(got.image_processor) is ViTImageProcessor
        close(got(IMAGES[0]), classify(IMAGES[0]))
    with pytest.raises(
        TypeError, match=r"model is a transformers\S*\.ViTForImageClassification; pass a model of vitkit"
    ):
        pipeline("image-classification", hf.ViTForImageClassification.from_pretrained(folder))
    with pytest.raises(ValueError, match="Unrecognized image processor in the dict: 'OwlViTImageProcessor'"):
        pipeline("image-classification", model, image_processor=hf.OwlViTImageProcessorPil())


def test_invalid_options_raise(classify: Pipeline, folder: Path) -> None:
    name = str(folder)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'topk'; did you mean 'top_k'\?$"):
        classify(IMAGES[0], topk=3)
    with pytest.raises(TypeError, match=r"pipeline got an unexpected keyword argument 'topk'; did you mean 'top_k'\?$"):
        pipeline("image-classification", name, topk=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tail'; from_pretrained "):
        pipeline("image-classification", name, tail=3)
    with pytest.raises(ValueError, match="framework is 'tf'; image pipelines run on PyTorch"):
        pipeline("image-classification", name, framework="tf")
    with pytest.raises(ValueError, match="tokenizer is set, but image pipelines do not use it"):
        pipeline("image-classification", name, tokenizer="bert")
    with pytest.raises(ValueError, match="revision cannot be set both as an argument and in model_kwargs"):
        pipeline("image-classification", name, revision="x", model_kwargs={"revision": "y"})
    with pytest.raises(ValueError, match="Cannot call the image-classification pipeline without an inputs argument!"):
        classify()
    with pytest.raises(ValueError, match="unknown function_to_apply 'tanh'"):
        classify(IMAGES[0], function_to_apply="tanh")
