"""The Auto classes for configs and models. They support every checkpoint that vitkit reads.

The class is found in a closed table by the `model_type` in config.json. Checkpoints of timm, Google, torchvision, the
original authors and vitkit are converted to the format of transformers in a temporary folder.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from vitkit.config import JsonDict
from vitkit.text import printable
from vitkit.transformers import hub
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.hub import Argument


@dataclass(frozen=True, kw_only=True)
class Family:
    """The module of a model family and the names of its classes. The first class is the default."""

    module: str
    config: str
    model: str
    classification: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    pretraining: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    backbone: str | None = None
    # Classes in another module than `module`.
    elsewhere: Mapping[str, str] = field(default_factory=dict)


FAMILIES: Mapping[str, Family] = {
    "beit": Family(
        module="families.beit",
        config="BeitConfig",
        model="BeitModel",
        classification=("BeitForImageClassification",),
        segmentation=("BeitForSemanticSegmentation",),
        backbone="BeitBackbone",
        elsewhere=dict.fromkeys(("BeitBackbone", "BeitForSemanticSegmentation"), "families.beit_segmentation"),
    ),
    "deit": Family(
        module="families.deit",
        config="DeiTConfig",
        model="DeiTModel",
        classification=("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
        masked=("DeiTForMaskedImageModeling",),
    ),
    "dinov2": Family(
        module="families.dinov2",
        config="Dinov2Config",
        model="Dinov2Model",
        classification=("Dinov2ForImageClassification",),
        backbone="Dinov2Backbone",
    ),
    "dinov2_with_registers": Family(
        module="families.dinov2",
        config="Dinov2WithRegistersConfig",
        model="Dinov2WithRegistersModel",
        classification=("Dinov2WithRegistersForImageClassification",),
        backbone="Dinov2WithRegistersBackbone",
    ),
    "dinov3_vit": Family(
        module="families.dinov3_vit",
        config="DINOv3ViTConfig",
        model="DINOv3ViTModel",
        backbone="DINOv3ViTBackbone",
    ),
    "resnet": Family(
        module="families.resnet",
        config="ResNetConfig",
        model="ResNetModel",
        classification=("ResNetForImageClassification",),
        backbone="ResNetBackbone",
    ),
    "vit": Family(
        module="modeling",
        config="ViTConfig",
        model="ViTModel",
        classification=("ViTForImageClassification",),
        masked=("ViTForMaskedImageModeling",),
    ),
    "vit_mae": Family(
        module="families.vit_mae",
        config="ViTMAEConfig",
        model="ViTMAEModel",
        pretraining=("ViTMAEForPreTraining",),
    ),
    "vit_msn": Family(
        module="families.vit_msn",
        config="ViTMSNConfig",
        model="ViTMSNModel",
        classification=("ViTMSNForImageClassification",),
    ),
}


def _class(model_type: str, name: str) -> Any:
    family = FAMILIES[model_type]
    return getattr(import_module(f"vitkit.transformers.{family.elsewhere.get(name, family.module)}"), name)


def _unknown_type(source: str, model_type: object) -> ValueError:
    found = "" if model_type is None else f" The checkpoint has model type {printable(str(model_type))[:40]!r}."
    return ValueError(
        f"Unrecognized model in {printable(source)}. Should have a `model_type` key in its config.json.{found} Known "
        f"model types: {', '.join(FAMILIES)}"
    )


@contextmanager
def _opened(
    source: str | os.PathLike[str], kwargs: Mapping[str, Argument], *, weights: bool = True
) -> Iterator[tuple[hub.Location, JsonDict]]:
    """Yields a location with a config.json of transformers, and the content of that file.

    A checkpoint of another library is converted into a temporary folder, without its weights if `weights` is False.
    Raises ValueError if the `model_type` is unknown and the checkpoint cannot be converted.
    """
    location, _ = hub.locate(source, kwargs)
    path = Path(location.source)
    data: JsonDict = {}
    if not path.is_file() or path.suffix == ".json":
        try:
            data = location.read_json("config.json")
        except FileNotFoundError as error:
            if not path.exists():
                raise OSError(str(error)) from None
    model_type = data.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        yield location, data
    elif model_type is not None and "pretrained_cfg" not in data and "vitkit" not in data:
        raise _unknown_type(location.source, model_type)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _converted(location, Path(folder) / "converted", weights=weights)


def _converted(location: hub.Location, target: Path, *, weights: bool) -> tuple[hub.Location, JsonDict]:
    from vitkit.checkpoints import CheckpointError, convert, convert_config

    try:
        if weights:
            convert(location.checkpoint(), target, "huggingface", dtype=None)
        else:
            convert_config(location.checkpoint(), target, "huggingface")
    except CheckpointError as error:
        raise ValueError(
            f"{_unknown_type(location.source, None)}. Converting the checkpoint to one of these failed: {error}"
        ) from None
    converted = replace(location, source=str(target), subfolder="", options={})
    return converted, converted.read_json("config.json")


class AutoConfig:
    """Loads the config of any checkpoint with `from_pretrained`, or creates one with `for_model`."""

    def __init__(self, *args: Argument, **kwargs: Argument):
        raise OSError(
            "AutoConfig is designed to be instantiated using the "
            "`AutoConfig.from_pretrained(pretrained_model_name_or_path)` method."
        )

    @classmethod
    def for_model(cls, model_type: str, *args: Argument, **kwargs: Argument) -> Any:
        """Creates the config of a `model_type`. Raises ValueError if the type is unknown."""
        if model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(
                f"Unrecognized model identifier: {printable(str(model_type))[:40]}. Should contain one of {known}"
            )
        return _class(model_type, FAMILIES[model_type].config)(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument) -> Any:
        """Loads the config of a folder, a file or a Hub id. `kwargs` are those of `PretrainedConfig.from_pretrained`.

        Raises OSError if there is no checkpoint, and ValueError for an unknown `model_type`.
        """
        with _opened(pretrained_model_name_or_path, kwargs, weights=False) as (location, data):
            _, rest = hub.locate(location.source, kwargs)
            rest.setdefault("name_or_path", os.fspath(pretrained_model_name_or_path))
            return _class(data["model_type"], FAMILIES[data["model_type"]].config).from_dict(data, **rest)


class _AutoModel:
    """Base class of the Auto classes of models. It cannot be instantiated."""

    # The field of `Family` with the classes.
    task: ClassVar[str]

    def __init__(self, *args: Argument, **kwargs: Argument):
        name = type(self).__name__
        raise OSError(
            f"{name} is designed to be instantiated using the `{name}.from_pretrained(pretrained_model_name_or_path)` "
            f"or `{name}.from_config(config)` methods."
        )

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Argument) -> Any:
        """Creates a randomly initialized model. `kwargs` are those of `PreTrainedModel.from_config`.

        Raises ValueError for a config without such a model.
        """
        return cls._model_class(getattr(config, "model_type", None), config).from_config(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Argument, **kwargs: Argument
    ) -> Any:
        """Loads the model of a folder, a file or a Hub id. `kwargs` are those of `PreTrainedModel.from_pretrained`.

        Raises OSError if there is no checkpoint, and ValueError for a `model_type` without such a model.
        """
        source, config = pretrained_model_name_or_path, kwargs.get("config")
        if config is not None and not isinstance(config, str | os.PathLike):
            own = cls._model_class(getattr(config, "model_type", None), config)
            return own.from_pretrained(source, *model_args, **kwargs)
        if config is not None:
            # The config comes from another folder than the weights.
            kwargs = {**kwargs, "config": AutoConfig.from_pretrained(config)}
            return cls.from_pretrained(source, *model_args, **kwargs)
        with _opened(source, kwargs) as (location, data):
            own = cls._model_class(data["model_type"], data)
            if location.options or location.subfolder or location.source == os.fspath(source):
                return own.from_pretrained(source, *model_args, **kwargs)
            _, rest = hub.locate(source, kwargs)
            loaded = own.from_pretrained(location.source, *model_args, **rest)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.name_or_path = model.config.name_or_path = os.fspath(source)
            return loaded

    @classmethod
    def _model_class(cls, model_type: object, config: object) -> Any:
        """Returns the class for a model type. If there are several, `architectures` in the config selects one."""
        family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
        names = getattr(family, cls.task) if family is not None else None
        if family is None or not names:
            known = [name for name, each in FAMILIES.items() if getattr(each, cls.task)]
            kind = type(config).__name__ if not isinstance(config, Mapping) else printable(str(model_type))[:40]
            raise ValueError(
                f"Unrecognized configuration class {kind} for this kind of AutoModel: {cls.__name__}. Model type "
                f"should be one of {', '.join(known)}"
            )
        names = (names,) if isinstance(names, str) else names
        stated = config.get("architectures") if isinstance(config, Mapping) else getattr(config, "architectures", None)
        chosen = next((name for name in stated or () if name in names), names[0])
        return _class(str(model_type), chosen)


class AutoModel(_AutoModel):
    """Loads a model without a head from any checkpoint, with `from_pretrained`."""

    task = "model"


class AutoModelForImageClassification(_AutoModel):
    """Loads an image classifier from any checkpoint, with `from_pretrained`."""

    task = "classification"


class AutoModelForMaskedImageModeling(_AutoModel):
    """Loads a model for masked image modeling from a checkpoint, with `from_pretrained`."""

    task = "masked"


class AutoModelForPreTraining(_AutoModel):
    """Loads a model for pre-training from a checkpoint, with `from_pretrained`."""

    task = "pretraining"


class AutoModelForSemanticSegmentation(_AutoModel):
    """Loads a model for semantic segmentation from a checkpoint, with `from_pretrained`."""

    task = "segmentation"


class AutoBackbone(_AutoModel):
    """Loads a backbone from a checkpoint, with `from_pretrained`. `out_features` or `out_indices` choose its stages."""

    task = "backbone"
