"""Pipelines for image classification and feature extraction, implemented with `Predictor`."""

import base64
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.config import nearest
from vitkit.data.processor import ImageInput, named
from vitkit.images import ImageError, Limits, Unlisted
from vitkit.inference import Classifier, Predictor
from vitkit.task import Function, apply
from vitkit.task import Task as Meaning
from vitkit.transformers.auto import AutoModel, AutoModelForImageClassification
from vitkit.transformers.auto_processing import AutoImageProcessor
from vitkit.transformers.batch import BatchFeature, Images, download
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.hub import Argument
from vitkit.transformers.image_processing import BaseImageProcessor
from vitkit.transformers.loaded import LoadedModel, open_model
from vitkit.transformers.pretrained import PreTrainedModel

# An image processor of vitkit or of transformers, or the path or Hub id of one.
Processing = Any
DEFAULT = "google/vit-base-patch16-224"
# Options of every call, besides those of the task.
CALL_OPTIONS = ("batch_size", "num_workers", "timeout", "errors")
# Arguments of transformers' `pipeline` that images do not need.
TEXT_OPTIONS = ("tokenizer", "video_processor", "pipeline_class")
# Options of `from_pretrained` that say where the files are.
HUB_OPTIONS = ("revision", "token", "use_auth_token", "cache_dir", "local_files_only", "force_download", "subfolder")
URL = ("http://", "https://")


class _SelectField(nn.Module):
    """Wraps a model so that it returns one field of its output, because `Predictor` expects a tensor."""

    def __init__(self, model: PreTrainedModel | LoadedModel, field: str | int):
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, images: Tensor) -> Tensor:
        """Returns the selected field of the output. Raises ValueError if the output does not contain the field."""
        output = self.model(images)
        if self.field not in output and isinstance(self.field, str):
            raise ValueError(
                "No pooled output was returned. Make sure the model has a `pooler` layer when using the `pool` option."
            )
        return output[self.field]


@dataclass(frozen=True)
class Task:
    """A pipeline task: its Auto class, the output field that it uses, its postprocessing function and its options.

    `output_field` returns the name or index of the field for the options of a call. `postprocess` takes the config, the
    field of one image and `options`, and returns the result.
    """

    auto_class: type[AutoModel] | type[AutoModelForImageClassification]
    output_field: Callable[[Mapping[str, Argument]], str | int]
    postprocess: Callable[..., object]
    options: tuple[str, ...]


class Pipeline:
    """Applies a task to one image, a list of images, a dataset or an iterable of images.

    Images are paths, URLs, data URIs, bytes, PIL images or arrays; an unreadable one raises `vitkit.ImageError`.
    Without a `device` the model runs on a GPU if there is one, as in transformers; -1 keeps its device. `options` are
    the options of a call, which can replace them.
    """

    framework = "pt"
    tokenizer = None

    def __init__(
        self,
        task: str,
        model: PreTrainedModel | LoadedModel,
        image_processor: BaseImageProcessor,
        *,
        device: int | str | torch.device | None = None,
        limits: Limits | None = None,
        **options: Argument,
    ):
        self.task = task
        self.model = model.to(_device(model, device)).eval()
        self.image_processor = self.feature_extractor = image_processor
        self.limits = limits
        self._check_options(options)
        self.options = options

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model."""
        return self.model.dtype

    torch_dtype = dtype

    def __call__(self, inputs: Images = None, **options: Argument) -> Any:
        """Returns the results for one or several images.

        A list gives a list; a dataset (an object with a length and indices, such as `KeyDataset`) or another iterable
        gives an iterator. `options` are those of the task, `batch_size` and `timeout` (seconds, for URLs).
        `num_workers` is accepted and has no effect, because threads decode images. `images` is another name for
        `inputs`. An unreadable image raises an `ImageError` that names it; with errors="return" the error takes the
        place of its result, and the other images are processed. Raises TypeError for an unknown option.
        """
        inputs = options.pop("images", inputs)
        if inputs is None:
            raise ValueError(f"Cannot call the {self.task} pipeline without an inputs argument!")
        self._check_options(options)
        options = self.options | {name: value for name, value in options.items() if value is not None}
        if options.get("errors", "raise") not in ("raise", "return"):
            raise ValueError(f"errors is '{options['errors']}'; it must be 'raise' or 'return'")
        images, single = _images_of(inputs)
        results = self._run((_read(image, options.get("timeout", 30.0), self.limits) for image in images), options)
        return next(results) if single else list(results) if isinstance(inputs, list | tuple) else results

    predict = transform = __call__

    def _check_options(self, options: Mapping[str, Argument]) -> None:
        known = (*TASKS[self.task].options, *CALL_OPTIONS)
        for name in options:
            if name not in known:
                raise TypeError(
                    f"the {self.task} pipeline got an unexpected keyword argument '{name}'{nearest(name, known)}"
                )

    def _run(self, images: Iterable[ImageInput], options: Mapping[str, Argument]) -> Iterator[object]:
        task = TASKS[self.task]
        chosen = {name: value for name, value in options.items() if name in task.options}
        processor = self.image_processor.with_settings(chosen.pop("image_processor_kwargs", {}))
        network: Any = _SelectField(self.model, task.output_field(chosen))
        predictor = Predictor(
            network,
            processor.processor(),
            device=str(self.device),
            batch_size=options.get("batch_size"),
            limits=self.limits,
        )
        for index, outcome in enumerate(predictor.logits(images)):
            if outcome.error is None:
                yield task.postprocess(self.model.config, outcome.output, **chosen)
                continue
            error = named(outcome.error, outcome.source, index)
            if options.get("errors") != "return":
                raise error
            yield error

    def preprocess(self, image: ImageInput, timeout: float | None = None, **settings: Argument) -> BatchFeature:
        """Returns the model input for one image. `settings` are those of the image processor."""
        image = _read(image, timeout, self.limits)
        if isinstance(image, Unlisted):
            raise image.error
        return self.image_processor(image, return_tensors="pt", **settings).to(self.dtype)

    @torch.no_grad()
    def forward(self, model_inputs: Mapping[str, Tensor]) -> Any:
        """Returns the model output for the result of `preprocess`."""
        return self.model(**{name: value.to(self.device) for name, value in model_inputs.items()})

    def postprocess(self, model_outputs: Any, **options: Argument) -> object:
        """Returns the result for the output of `forward`. `options` are those of the task."""
        task = TASKS[self.task]
        output = model_outputs[task.output_field(options)][0]
        return task.postprocess(self.model.config, output.float().cpu().numpy(), **options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Argument) -> None:
        """Saves the model and the image processor to a folder. `options` are those of the model."""
        self.model.save_pretrained(save_directory, **options)
        self.image_processor.save_pretrained(save_directory)


class KeyDataset:
    """Wraps a dataset of dicts, and returns the values of one key, such as "image", as input of a pipeline."""

    def __init__(self, dataset: Any, key: str):
        self.dataset = dataset
        self.key = key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index][self.key]


def _device(model: PreTrainedModel | LoadedModel, device: int | str | torch.device | None) -> int | str | torch.device:
    if device is None and model.device.type == "cpu":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return model.device if device in (None, -1) else device


def _images_of(inputs: Images) -> tuple[Iterable[ImageInput], bool]:
    """Returns the images of an input, and whether it is a single image."""
    if isinstance(inputs, str | bytes | os.PathLike) or hasattr(inputs, "__array__"):
        return [inputs], True
    if isinstance(inputs, Mapping):
        keys = ", ".join(map(str, inputs))
        raise TypeError(f"the input is a dict with the keys {keys}; pass an image, or KeyDataset(dataset, key)")
    dataset: Any = inputs
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__") and not isinstance(inputs, list | tuple):
        return (dataset[index] for index in range(len(dataset))), False
    return (inputs, False) if isinstance(inputs, Iterable) else ([inputs], True)


def _read(image: ImageInput, timeout: float | None, limits: Limits | None) -> ImageInput:
    """Downloads a URL and decodes a data URI. Returns other images unchanged, and failed images as `Unlisted`."""
    if isinstance(image, Mapping):
        raise TypeError(
            f"an image is a dict with the keys {', '.join(map(str, image))}; pass KeyDataset(dataset, key) instead"
        )
    if not isinstance(image, str):
        return image
    try:
        if image.startswith(URL):
            return download(image, timeout=timeout, limits=limits)
        if image.startswith("data:image/"):
            return base64.b64decode(image.partition(",")[2], validate=True)
    except ImageError as error:  # in its place among the others
        return Unlisted(image, error)
    except ValueError as error:  # binascii.Error, or characters that are not ASCII
        text = image[:40]
        return Unlisted(text, ImageError("corrupt", f"the data URI is not valid base64: {error}"))
    return image


FUNCTIONS: dict[str, Function] = {name: name for name in get_args(Function)}


def best_labels(
    config: PretrainedConfig, logits: np.ndarray, *, top_k: int | None = 5, function_to_apply: str | None = None
) -> list[dict[str, str | float]]:
    """Returns the `top_k` labels with the highest scores, best first.

    `function_to_apply` is "softmax", "sigmoid" or "none"; the default is that of `config.problem_type`.
    """
    meaning = configs.from_dict(Meaning, {} if config.problem_type is None else {"problem_type": config.problem_type})
    given = str(getattr(function_to_apply, "value", function_to_apply) or "default").lower()
    function = meaning.function(config.num_labels) if given == "default" else given
    if function not in FUNCTIONS:
        raise ValueError(f"unknown function_to_apply '{function}'; expected one of {', '.join(FUNCTIONS)}")
    scores = apply(FUNCTIONS[function], logits)
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": config.id2label[int(index)], "score": float(scores[index])} for index in best]


def features(
    config: PretrainedConfig, output: np.ndarray, *, pool: bool = False, return_tensors: bool = False
) -> Tensor | list[object]:
    """Returns the tokens (1, n, d) or the pooled vector (1, d), as nested lists or a torch tensor."""
    batch = torch.from_numpy(output)[None]
    return batch if return_tensors else batch.tolist()


TASKS = {
    "image-classification": Task(
        AutoModelForImageClassification, lambda options: "logits", best_labels, ("top_k", "function_to_apply")
    ),
    "image-feature-extraction": Task(
        AutoModel,
        lambda options: "pooler_output" if options.get("pool") else 0,
        features,
        ("pool", "return_tensors", "image_processor_kwargs"),
    ),
}


def pipeline(
    task: str | None = None,
    model: PreTrainedModel | Classifier | str | os.PathLike[str] | None = None,
    config: PretrainedConfig | str | os.PathLike[str] | None = None,
    *,
    image_processor: Processing | None = None,
    feature_extractor: Processing | None = None,
    device: int | str | torch.device | None = None,
    limits: Limits | None = None,
    **options: Argument,
) -> Pipeline:
    """Creates a pipeline for a model, or for a folder or Hub id from which the model is loaded.

    The model is one of `vitkit.transformers` or of `vitkit.load`. The folder or Hub id is any that `vitkit.load` opens.

    The task defaults to feature extraction for a model without a head, else to classification; the processor to the one
    saved with the model. `options` are those of the task (`top_k`, `function_to_apply`, `pool`, ...) and of every call
    (`batch_size`, ...); the others are options of `from_pretrained` (dtype, device_map, revision, ...), also as a dict
    `model_kwargs`. `use_fast`, `num_workers` and `framework="pt"` are accepted and have no effect. `limits`
    (`vitkit.Limits`) bound the size of image files. Raises ValueError for an unknown task and if no processor is found.
    """
    if task is None:
        headless = isinstance(model, PreTrainedModel) and model.base_model is model
        task = "image-feature-extraction" if headless else "image-classification"
    if task not in TASKS:
        raise ValueError(f"unknown task '{task}'; expected one of {', '.join(TASKS)}")
    call_options, model_options, processor = _split_options(task, options)
    processor: Any = image_processor or feature_extractor or processor
    held = LoadedModel(model, has_head=task == "image-classification") if isinstance(model, Classifier) else model
    if isinstance(held, PreTrainedModel | LoadedModel):
        if given := [name for name, value in model_options.items() if value is not None]:
            raise TypeError(f"{', '.join(given)} can only be set when loading a model; pass a path instead of a model")
        network, source = held, held.name_or_path
    else:
        if isinstance(held, nn.Module):
            raise TypeError(
                f"model is a {type(held).__module__}.{type(held).__name__}; pass a model of vitkit.transformers, or "
                "the path of a saved model"
            )
        source = os.fspath(held or DEFAULT)
        network: Any = _load(task, source, config, model_options)
        device = -1 if device is None and model_options.get("device_map") is not None else device
    if isinstance(network, LoadedModel):
        processor = processor or network.processor.to_huggingface()
        device = "cpu" if device is None and network.is_exported else device
    processor = processor or source
    if processor == "":
        raise ValueError(
            "the model was not loaded from a folder or Hub id, so its image processor is unknown; pass image_processor="
        )
    if hasattr(processor, "to_dict") and not isinstance(processor, BaseImageProcessor):
        processor = AutoImageProcessor.from_dict(processor.to_dict())  # a processor of transformers
    elif isinstance(processor, dict):
        processor = AutoImageProcessor.from_dict(processor)
    elif not isinstance(processor, BaseImageProcessor):
        where = {name: model_options[name] for name in HUB_OPTIONS if name in model_options}
        processor = AutoImageProcessor.from_pretrained(processor, config=network.config, **where)
    return Pipeline(task, network, processor, device=device, limits=limits, **call_options)


def _load(task: str, source: str, config: Any, options: dict[str, Any]) -> Any:
    """Loads a model with its Auto class, or with `vitkit.load` if no class of transformers can hold it."""
    auto = TASKS[task].auto_class
    try:
        return auto.from_pretrained(source, config=config, **options)
    except ValueError:
        loaded = None
        if config is None:
            loaded = open_model(source, has_head=task == "image-classification", options=options)
        if loaded is None:
            raise
        return loaded


def _split_options(task: str, options: Mapping[str, Argument]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Splits the options into those of calls, those of `from_pretrained`, and `processor`.

    Raises ValueError for another framework than PyTorch, for a tokenizer, and for an option that is given twice. Raises
    TypeError for a misspelled option of calls.
    """
    rest = dict(options)
    rest.pop("use_fast", None)
    if (framework := rest.pop("framework", None)) not in (None, "pt"):
        raise ValueError(f"framework is {framework!r}; image pipelines run on PyTorch: use 'pt' or None")
    for name in TEXT_OPTIONS:
        if rest.pop(name, None) is not None:
            raise ValueError(f"{name} is set, but image pipelines do not use it; remove it")
    known = (*TASKS[task].options, *CALL_OPTIONS)
    for_calls = {name: rest.pop(name) for name in known if name in rest}
    for name in rest:
        if difflib.get_close_matches(name, known, cutoff=0.8):
            raise TypeError(f"pipeline got an unexpected keyword argument '{name}'{nearest(name, known)}")
    processor, more = rest.pop("processor", None), rest.pop("model_kwargs", None) or {}
    if twice := sorted(set(more) & {name for name, value in rest.items() if value is not None}):
        raise ValueError(f"{', '.join(twice)} cannot be set both as an argument and in model_kwargs; use only one")
    return {name: value for name, value in for_calls.items() if value is not None}, rest | dict(more), processor
