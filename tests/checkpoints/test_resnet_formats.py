"""ResNets with batch norm: files of transformers, timm and torchvision in both directions, against their classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError, preprocessing
from vitkit.checkpoints.formats.torchvision.resnet import TABLE
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import resnet

SIZES = ((32, 32), (47, 65), (33, 96))
SMALL: dict[str, Any] = {"embedding_size": 6, "hidden_sizes": [10, 20, 30], "depths": [1, 2, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "bottleneck": {},
    "basic": {"layer_type": "basic"},
    "v1": {"downsample_in_bottleneck": True, "num_channels": 4},
    "first stage": {"downsample_in_first_stage": True, "layer_type": "basic", "hidden_sizes": [6, 8, 10]},
    "silu": {"hidden_act": "silu", "num_channels": 1},
}


def fill(module: Any) -> Any:
    """Fills parameters and running statistics with random values, and returns the module in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            else:
                scale = 0.3 if tensor.ndim == 1 else (2 / tensor[0].numel()) ** 0.5
                tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
                if name.endswith("weight") and tensor.ndim == 1:
                    tensor.add_(0.7)
    return module.eval()


def checkpoint(config: resnet.Config, processor: Processor | None = None) -> Checkpoint:
    labels = tuple(f"kind {index}" for index in range(config.num_classes))
    model = fill(models.build(config))
    return Checkpoint(model=model, processor=processor or preprocessing.resnet(config), labels=labels)


@torch.no_grad()
def assert_equal_outputs(ours: nn.Module, theirs: nn.Module, channels: int = 3) -> None:
    for rows, columns in SIZES:
        images = torch.randn(2, channels, rows, columns)
        output = theirs(images)
        expected: Tensor = getattr(output, "logits", output)
        assert expected.std() > 0.05
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)


def assert_same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def transformers_model(**changes: Any) -> Any:
    transformers = oracle("transformers")
    labels = {index: f"kind {index}" for index in range(5)}
    arguments = {**SMALL, "id2label": labels, "label2id": {label: index for index, label in labels.items()}, **changes}
    torch.manual_seed(0)
    return fill(transformers.ResNetForImageClassification(transformers.ResNetConfig(**arguments)))


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_both_directions(name: str, tmp_path: Path) -> None:
    theirs = transformers_model(**CONFIGS[name])
    theirs.save_pretrained(tmp_path / "theirs")
    read = checkpoints.load(tmp_path / "theirs")
    assert (read.origin.format, read.labels) == ("resnet_huggingface", tuple(f"kind {index}" for index in range(5)))
    channels = theirs.config.num_channels
    assert_equal_outputs(read.model, theirs, channels)
    assert checkpoints.save(read, tmp_path / "ours") == "resnet_huggingface"
    assert_same_tensors(*(load_file(tmp_path / each / "model.safetensors") for each in ("ours", "theirs")))
    again, problems = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(problems.values()), problems
    assert again.config.id2label == theirs.config.id2label
    differ = {key for key, value in theirs.config.to_dict().items() if again.config.to_dict()[key] != value}
    assert differ <= {"_name_or_path"}
    assert_equal_outputs(read.model, again.eval(), channels)
    once_more = checkpoints.load(tmp_path / "ours")
    assert once_more.model.config == read.model.config
    assert once_more.processor == read.processor


def test_a_base_model_of_transformers_and_its_hidden_states(tmp_path: Path) -> None:
    transformers = oracle("transformers")
    theirs = fill(transformers.ResNetModel(transformers.ResNetConfig(**SMALL)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs").model
    images = torch.randn(2, 3, 47, 65)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True)
        features = ours.features(images, blocks=3, as_maps=True)
        found = (ours.stem(images), *features.taps)
        for one, other in zip(found, expected.hidden_states, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        pooled = expected.pooler_output.flatten(1)
        torch.testing.assert_close(ours.represent(features), pooled, atol=1e-5, rtol=1e-5)
    checkpoints.save(checkpoints.load(tmp_path / "theirs"), tmp_path / "ours", to="huggingface")
    assert_same_tensors(*(load_file(tmp_path / each / "model.safetensors") for each in ("ours", "theirs")))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["ResNetModel"]


def timm_model(**arguments: Any) -> Any:
    return fill(oracle("timm").create_model(**arguments))


TIMM: dict[str, dict[str, Any]] = {
    "basic": {"model_name": "resnet18", "channels": (8, 12, 16, 20), "layers": (1, 2, 1, 1), "num_classes": 5},
    "bottleneck": {"model_name": "resnet50", "channels": (8, 12, 16, 20), "layers": (1, 1, 1, 1), "num_classes": 5},
    "wide": {"model_name": "wide_resnet50_2", "channels": (8, 8, 8, 8), "layers": (1, 1, 1, 1), "num_classes": 5},
    "silu": {
        "model_name": "resnet18",
        "channels": (8, 8, 8, 8),
        "layers": (1, 1, 1, 1),
        "num_classes": 5,
        "act_layer": "silu",
        "in_chans": 4,
    },
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_both_directions(name: str, tmp_path: Path) -> None:
    timm = oracle("timm")
    theirs = timm_model(**TIMM[name])
    arguments = {key: value for key, value in TIMM[name].items() if key not in ("model_name", "num_classes")}
    timm.models.save_for_hf(theirs, tmp_path / "theirs", model_args=arguments, safe_serialization="both")
    read = checkpoints.load(tmp_path / "theirs")
    assert read.origin.format == "resnet_timm"
    channels = arguments.get("in_chans", 3)
    assert_equal_outputs(read.model, theirs, channels)
    data = timm.data.resolve_data_config(model=theirs)
    assert read.processor.interpolation == data["interpolation"]
    named = dataclasses.replace(read, labels=tuple("abcde"))
    assert checkpoints.save(named, tmp_path / "ours", to="timm") == "resnet_timm"
    again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert_same_tensors(again.state_dict(), theirs.state_dict())
    assert_equal_outputs(read.model, again, channels)
    once_more = checkpoints.load(tmp_path / "ours")
    assert once_more.model.config == read.model.config
    assert (once_more.processor, once_more.labels) == (read.processor, tuple("abcde"))


@pytest.mark.parametrize(
    ("architecture", "known"), [("resnet50.a1_in1k", True), ("resnet50d", False), ("resnetblur50", False)]
)
def test_other_architectures_of_timm_are_rejected(architecture: str, known: bool, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(resnet.Config(**FOUR_STAGES)), tmp_path / "x", to="timm")
    data = json.loads((tmp_path / "x" / "config.json").read_text()) | {"architecture": architecture}
    (tmp_path / "x" / "config.json").write_text(json.dumps(data))
    if known:
        assert checkpoints.load(tmp_path / "x").origin.format == "resnet_timm"
        return
    with pytest.raises(CheckpointError, match=f"architecture is '{architecture}', but the tensors are those of a ResN"):
        checkpoints.load(tmp_path / "x")


FOUR_STAGES: dict[str, Any] = {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "block": "basic", "num_classes": 5}


def test_torchvision_both_directions(tmp_path: Path) -> None:
    theirs_of = oracle("torchvision.models.resnet")
    theirs = fill(theirs_of.ResNet(theirs_of.BasicBlock, [1, 1, 1, 1], num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    read = checkpoints.load(tmp_path / "theirs.pth")
    assert read.origin.format == "resnet_torchvision"
    assert_equal_outputs(read.model, theirs)
    checkpoints.save(read, tmp_path / "ours.pth", to="torchvision")
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert_same_tensors(written, theirs.state_dict())
    theirs.load_state_dict(written)
    old = {name: each for name, each in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": {f"module.{name}": each for name, each in old.items()}}, tmp_path / "old.pth")
    before = checkpoints.load(tmp_path / "old.pth")
    assert before.model.stem.norm.num_batches_tracked == 0
    assert_equal_outputs(before.model, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("layers", resnet.DEPTHS)
def test_full_sizes_of_three_libraries(layers: int, tmp_path: Path) -> None:
    """Names, shapes and outputs of the presets, from torchvision's file to timm's and transformers' folders."""
    torchvision, timm = oracle("torchvision"), oracle("timm")
    theirs = fill(getattr(torchvision.models, f"resnet{layers}")(num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "tv.pth")
    read = checkpoints.load(tmp_path / "tv.pth")
    assert read.model.config == models.preset(f"resnet{layers}", num_classes=7)
    checkpoints.save(read, tmp_path / "timm", to="timm")
    checkpoints.save(read, tmp_path / "hf", to="huggingface")
    from_timm = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    from_hf = oracle("transformers").ResNetForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["architecture"] == f"resnet{layers}"
    images = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        expected = theirs(images)
        scale = float(expected.abs().max())
        for found in (read.model(images), from_timm(images), from_hf(images).logits):
            torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "interpolation", "short"),
    [
        ("resnet50-0676ba61.pth", "bilinear", 256),
        ("resnet50-11ad3fa6.pth", "bilinear", 232),
        ("resnet50_a1_0-14fe96d1.pth", "bicubic", 235),
        ("mine.pth", "bilinear", 256),
    ],
)
def test_preprocessing_follows_from_the_name_of_a_published_file(
    file: str, interpolation: str, short: int, tmp_path: Path
) -> None:
    torch.save(TABLE.saved(checkpoint(resnet.TINY).model.state_dict(), 1), tmp_path / file)
    processor = checkpoints.load(tmp_path / file).processor
    assert (processor.interpolation, processor.resize_to, processor.size) == (interpolation, short, (224, 224))
    assert (processor.mean, processor.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert checkpoints.load(tmp_path / file, image_size=160).processor.size == (160, 160)


def photo(rows: int, columns: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (rows // 8, columns // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC)


FEATURE_EXTRACTOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "resample": 3,
    "size": 224,
}
CONVNEXT: dict[str, dict[str, Any]] = {
    "microsoft/resnet-50": FEATURE_EXTRACTOR,
    "shortest_edge": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 160}},
    "squash": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.9},
    "defaults": {"image_processor_type": "ConvNextImageProcessor"},
    "crop_pct": {"image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 96}, "crop_pct": 0.7},
}


@pytest.mark.parametrize("name", CONVNEXT)
def test_convnext_processors_equal_transformers_bit_for_bit(name: str, tmp_path: Path) -> None:
    oracle("transformers")
    theirs_of = oracle("transformers.models.convnext.image_processing_pil_convnext")
    settings = {key: value for key, value in CONVNEXT[name].items() if not key.endswith("_type")}
    ours = Processor.from_huggingface(CONVNEXT[name])
    theirs = theirs_of.ConvNextImageProcessorPil(**settings)
    written = ours.to_huggingface(kind="ConvNext")
    assert written["image_processor_type"] == "ConvNextImageProcessor"
    assert Processor.from_huggingface(written) == ours
    again = theirs_of.ConvNextImageProcessorPil(**{key: value for key, value in written.items() if key != "vitkit"})
    for size in ((320, 240), (97, 211), (130, 131)):
        image = photo(*size)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(ours.array(image), expected)
        assert np.array_equal(again(image, return_tensors="np")["pixel_values"][0], expected)


def test_processors_that_convnext_cannot_represent_are_written_as_others() -> None:
    for processor in (
        Processor.squash(64),
        Processor.crop((64, 96)),
        Processor.crop(400, 0.9),
        Processor(size=(64, 64), resize="shortest", resize_to=32, center_crop="huggingface"),
    ):
        written = processor.to_huggingface(kind="ConvNext")
        crops = processor.center_crop != "none"
        assert written["image_processor_type"] == ("BitImageProcessor" if crops else "ViTImageProcessor")
        assert Processor.from_huggingface(written) == processor
    for fraction in (0.965, 0.9, 0.875, 0.95, 1.0):
        processor = Processor.crop(224, fraction)
        written = processor.to_huggingface(kind="ConvNext")
        assert written["image_processor_type"] == "ConvNextImageProcessor"
        assert Processor.from_huggingface(written) == processor


def test_invalid_convnext_settings_are_rejected() -> None:
    for changes, message in (
        ({"crop_pct": 0}, "crop_pct must be above 0 and at most 1"),
        ({"size": {"height": 9, "width": 9}}, "size must contain .shortest_edge. for ConvNextImageProcessor"),
        ({"do_center_crop": True, "crop_size": 100}, "crop_size 100 would be a second crop"),
        ({"do_pad": True}, "unsupported steps: do_pad"),
    ):
        with pytest.raises(ValueError, match=message):
            Processor.from_huggingface(FEATURE_EXTRACTOR | changes)


def test_image_size_comes_from_the_processor_and_can_change(tmp_path: Path) -> None:
    config = dataclasses.replace(resnet.TINY, image_size=(64, 64))
    written = checkpoint(config, Processor.crop(64, 0.875, profile="ignore"))
    checkpoints.save(written, tmp_path / "x", to="huggingface")
    assert "vitkit" not in json.loads((tmp_path / "x" / "config.json").read_text())
    read = checkpoints.load(tmp_path / "x")
    assert (read.model.config, read.processor) == (config, written.processor)
    larger = checkpoints.load(tmp_path / "x", image_size=96)
    assert (larger.model.config.image_size, larger.processor.size) == ((96, 96), (96, 96))
    assert larger.processor.resize_to == int(96 * written.processor.resize_to / 64)
    other = dataclasses.replace(written, processor=Processor.squash(48, profile="ignore"))
    checkpoints.save(other, tmp_path / "y", to="huggingface")
    assert checkpoints.load(tmp_path / "y").model.config == config


def test_channels_head_and_dtype(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(resnet.TINY, Processor.crop(40)), tmp_path / "x", to="huggingface")
    four = checkpoints.load(tmp_path / "x", channels=4)
    assert four.model(torch.randn(1, 4, 40, 40)).shape == (1, 5)
    assert checkpoints.load(tmp_path / "x", num_classes=3).labels == ("class 0", "class 1", "class 2")
    half = checkpoints.load(tmp_path / "x", dtype=torch.bfloat16).model
    assert half.stem.norm.running_mean.dtype == torch.bfloat16
    assert half.stem.norm.num_batches_tracked.dtype == torch.int64
    assert half(torch.randn(1, 3, 40, 40)).isfinite().all()


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("huggingface", {"inner_activation": "silu"}, "transformers' ResNet always implies {'inner_activation': 'relu'}"),
    ("huggingface", {"reduction": 2}, "reduction"),
    ("timm", {}, "4 stages whose widths are multiples of 4"),
    ("torchvision", {}, r"bottleneck blocks has widths \(256, 512, 1024, 2048\), not \(16, 24\)"),
    ("npz", {}, "npz does not support the model family resnet"),
]


@pytest.mark.parametrize(("to", "changes", "message"), UNSUPPORTED)
def test_unsupported_configs_are_rejected(to: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = checkpoint(dataclasses.replace(resnet.TINY, **changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.save(made, tmp_path / f"x{'.pth' if to == 'torchvision' else ''}", to=to)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.save(made, tmp_path / "y") in ("vitkit", "resnet_huggingface")
    read = checkpoints.load(tmp_path / "y")
    assert read.model.config == made.model.config
    assert_same_tensors(read.model.state_dict(), made.model.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [1, 1]}, r"depths is \(1, 1\), but the tensors have \(1, 2\)"),
        ({"hidden_sizes": [16, 10**9]}, "widths is"),
        ({"layer_type": "basic"}, "block is basic, but the tensors have bottleneck"),
        ({"layer_type": ["x"]}, "'layer_type' is"),
        ({"hidden_act": "reLu"}, "unknown hidden_act 'reLu'; did you mean 'relu'"),
        ({"downsample_in_bottleneck": "yes"}, "downsample_in_bottleneck"),
        ({"id2label": {"0": "a"}}, "num_classes is 1, but the tensors have 5"),
        ({"vitkit": {"image_size": "big"}}, "image_size"),
    ],
)
def test_configs_that_contradict_the_tensors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(resnet.TINY, Processor.crop(40)), tmp_path / "x", to="huggingface")
    data = json.loads((tmp_path / "x" / "config.json").read_text()) | changes
    (tmp_path / "x" / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_missing_unknown_and_grouped_tensors_are_rejected(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(resnet.TINY, Processor.crop(40)), tmp_path / "x", to="huggingface")
    path = tmp_path / "x" / "model.safetensors"
    tensors = load_file(path)
    block = "resnet.encoder.stages.1.layers.1.layer.1"
    cases = {
        f"{block}.normalization.running_var": ({f"{block}.normalization.running_var": None}, "1 tensor is missing"),
        "attention": (
            {f"{block}.attention.0.weight": torch.zeros(2)},
            r"does not support \(encoder\.stages\.1\.layers\.1",
        ),
        "grouped": (
            {"resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": torch.zeros(4, 1, 3, 3)},
            "ResNeXt",
        ),
        "whole stage": (
            {name: None for name in tensors if ".stages.0." in name},
            "blocks are missing: stage 0 block 0",
        ),
    }
    for changes, message in cases.values():
        changed = {name: each for name, each in {**tensors, **changes}.items() if each is not None}
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints.load(tmp_path / "x")
        assert "\n" not in str(caught.value)
