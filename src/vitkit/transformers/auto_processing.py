"""`AutoImageProcessor` and `AutoFeatureExtractor`, which support every checkpoint that vitkit reads.

The class is found in a closed table by the name in preprocessor_config.json or by the `model_type` in config.json.
Checkpoints of timm, Google, torchvision and the original authors have no preprocessor_config.json; their processor is
that of `vitkit.load`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vitkit.config import JsonDict
from vitkit.data.processor import Processor
from vitkit.text import printable
from vitkit.transformers import hub
from vitkit.transformers.hub import Argument
from vitkit.transformers.image_processing import CHOICES, BaseImageProcessor, ViTImageProcessor
from vitkit.transformers.image_processors import (
    BeitFeatureExtractor,
    BeitImageProcessor,
    BitImageProcessor,
    ConvNextFeatureExtractor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    DINOv3ViTImageProcessor,
)

Classes = Mapping[str, type[BaseImageProcessor]]
# Classes by the family in the name of the class in transformers, such as "ViT" in ViTImageProcessorFast.
IMAGE_PROCESSORS: Classes = {
    "Beit": BeitImageProcessor,
    "Bit": BitImageProcessor,
    "CLIP": BitImageProcessor,  # it has the same steps and defaults
    "ConvNext": ConvNextImageProcessor,
    "DINOv3ViT": DINOv3ViTImageProcessor,
    "DeiT": DeiTImageProcessor,
    "ViT": ViTImageProcessor,
}
FEATURE_EXTRACTORS: Classes = {
    **IMAGE_PROCESSORS,
    "Beit": BeitFeatureExtractor,
    "ConvNext": ConvNextFeatureExtractor,
}
# Families by `model_type`, for files that do not name a class.
FAMILIES = {
    "beit": "Beit",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "dinov3_vit": "DINOv3ViT",
    "resnet": "ConvNext",
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
}
FILES = ("preprocessor_config.json", "processor_config.json")
NAMES = ("image_processor_type", "feature_extractor_type")


class _AutoProcessor:
    """Base class of the two Auto classes. It cannot be instantiated."""

    classes: ClassVar[Classes]
    kind: ClassVar[str]

    def __init__(self, *args: Argument, **kwargs: Argument):
        name = type(self).__name__
        raise OSError(
            f"{name} is designed to be instantiated using the "
            f"`{name}.from_pretrained(pretrained_model_name_or_path)` method."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument) -> Any:
        """Loads the image processor of a folder, a file or a Hub id.

        `kwargs` are settings and those of `hub.locate`; `config`, the config of the model, replaces config.json.
        Raises FileNotFoundError if a folder of transformers has no image processor, and ValueError for a class or
        `model_type` that vitkit does not know.
        """
        source, config = pretrained_model_name_or_path, kwargs.pop("config", None)
        location, rest = hub.locate(source, kwargs)
        rest = {name: value for name, value in rest.items() if name not in CHOICES}
        data = _read(location, *FILES)
        if data is None or not isinstance(data.get("pretrained_cfg"), Mapping | None):
            return cls._from_checkpoint(location, rest)
        inner: Any = data.get("image_processor")
        inner = inner if isinstance(inner, Mapping) else data
        stated = next((str(inner[name]) for name in NAMES if inner.get(name)), "")
        if stated == "TimmWrapperImageProcessor" or data.get("pretrained_cfg") is not None:
            return cls._from_checkpoint(location, rest)
        processor_class = cls._class(location, stated, config)
        model = _read(location, "config.json") or {}
        if model and "model_type" not in model:  # a folder of vitkit
            return _exact(processor_class, data, rest)
        return processor_class.from_dict(data, **rest)

    @classmethod
    def from_dict(cls, image_processor_dict: JsonDict, **kwargs: Argument) -> Any:
        """Creates a processor from a dict, such as the result of `to_dict()` in transformers.

        `kwargs` replace settings. Raises ValueError for a class that vitkit does not know.
        """
        stated = next((str(image_processor_dict[name]) for name in NAMES if image_processor_dict.get(name)), "?")
        processor_class = cls._class(hub.Location("the dict"), stated, None)
        return processor_class.from_dict(image_processor_dict, **kwargs)

    @classmethod
    def _class(cls, location: hub.Location, stated: str, config: Argument) -> type[BaseImageProcessor]:
        model: Mapping[str, Any] = {}
        if not stated:
            model = vars(config) if hasattr(config, "model_type") else _read(location, "config.json") or {}
        model_type = getattr(config, "model_type", None) or model.get("model_type")
        stated = stated or next((str(model[name]) for name in NAMES if model.get(name)), "")
        family = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", stated) or FAMILIES.get(
            str(model_type), ""
        )
        if family in cls.classes:
            return cls.classes[family]
        found = f"{stated!r}" if stated else f"no {NAMES[0]}, and model_type {model_type!r} in config.json"
        raise ValueError(
            f"Unrecognized {cls.kind} in {printable(location.source)}: {printable(found)}. Should have a `{NAMES[0]}` "
            f"key in its {FILES[0]} of {', '.join(f'{name}ImageProcessor' for name in sorted(cls.classes))}, or one of "
            f"the following `model_type` keys in its config.json: {', '.join(FAMILIES)}"
        )

    @classmethod
    def _from_checkpoint(cls, location: hub.Location, settings: dict[str, Argument]) -> Any:
        """Returns the image processor of a checkpoint that is not in the format of transformers."""
        config = _read(location, "config.json") or {}
        if (model_type := str(config.get("model_type"))) in FAMILIES:
            raise FileNotFoundError(
                f"{printable(location.source)} has no {FILES[0]}: save one with {cls.__name__}.save_pretrained, or "
                f"create a processor, such as {cls.classes[FAMILIES[model_type]].__name__}()"
            )
        data = checkpoint_processor(location).to_huggingface()
        family = str(data["image_processor_type"]).removesuffix("ImageProcessor")
        return _exact(cls.classes[family], data, settings)


class AutoImageProcessor(_AutoProcessor):
    """Loads the image processor of a checkpoint, with `from_pretrained`."""

    classes = IMAGE_PROCESSORS
    kind = "image processor"


class AutoFeatureExtractor(_AutoProcessor):
    """Loads the image processor of a checkpoint, with `from_pretrained`. Has the class name of transformers 4."""

    classes = FEATURE_EXTRACTORS
    kind = "feature extractor"


def _exact(processor_class: type[BaseImageProcessor], data: JsonDict, settings: dict[str, Argument]) -> Any:
    """Creates a processor with all settings in a file, including those that only vitkit writes."""
    result = processor_class.from_dict(data, **settings)
    processor: BaseImageProcessor = result[0] if isinstance(result, tuple) else result
    if "vitkit" in data:
        processor.extra = {"vitkit": data["vitkit"]}
    return result


def _read(location: hub.Location, *names: str) -> JsonDict | None:
    """Returns the content of the first named JSON file that exists, or None if there is no JSON file."""
    path = Path(location.source)
    if path.is_file() and path.suffix != ".json":
        return None
    try:
        return location.read_json(*names)
    except FileNotFoundError:
        return None


def checkpoint_processor(location: hub.Location) -> Processor:
    """Returns the preprocessing of a checkpoint of any format. The tensors are not read.

    Raises FileNotFoundError if there is no checkpoint. Raises ValueError (`CheckpointError`) if it is invalid.
    """
    from vitkit.checkpoints.checkpoint import CheckpointError
    from vitkit.checkpoints.detect import detect_format
    from vitkit.checkpoints.formats import RawCheckpoint
    from vitkit.checkpoints.locate import locate

    try:
        files = locate(location.checkpoint(), None)
    except CheckpointError as error:
        inside = os.path.join(location.source, location.subfolder)
        raise FileNotFoundError(f"{printable(inside)} has neither {FILES[0]} nor a checkpoint: {error}") from None
    detected = detect_format(files.tensors, files.config, None)
    described = detected.format.describe(
        RawCheckpoint(
            tensors=detected.tensors,
            config=files.config,
            preprocessor=files.preprocessor,
            file_name=files.path.name,
            wrapper=f"{files.subtree}.{detected.wrapper}" if files.subtree else detected.wrapper,
            overrides={},
            image_size=None,
        )
    )
    return described.processor.with_channels(described.config.channels)
