"""Pipelines for image classification and feature extraction, implemented with `Predictor`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.data.processor import ImageInput, named
from vitkit.images import ImageError, Limits, Unlisted
from vitkit.inference import Predictor
from vitkit.task import Function, apply
from vitkit.task import Task as Meaning
from vitkit.transformers.batch import Images, download
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.hub import Argument
from vitkit.transformers.image_processing import ViTImageProcessor
from vitkit.transformers.modeling import ViTForImageClassification, ViTModel
from vitkit.transformers.pretrained import ViTPreTrainedModel

DEFAULT = "google/vit-base-patch16-224"
PRECISIONS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class _SelectField(nn.Module):
    """Wraps a model so that it returns one field of its output, because `Predictor` expects a tensor."""

    def __init__(self, model: ViTPreTrainedModel, field: str | int):
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, images: Tensor) -> Tensor:
        """Returns the selected field of the output. Raises ValueError if the model does not return it."""
        output = self.model(images)
        if self.field not in output and isinstance(self.field, str):
            raise ValueError(
                "No pooled output was returned. Make sure the model has a `pooler` layer when using the `pool` option."
            )
        return output[self.field]


@dataclass(frozen=True)
class Task:
    """A pipeline task: its model class, the output field that it uses, and its postprocessing function.

    `output_field` returns the name or index of the field for the options of a call. `postprocess` takes the config, the
    field of one image and the options, and returns the result.
    """

    model_class: type[ViTPreTrainedModel]
    output_field: Callable[[Mapping[str, Argument]], str | int]
    postprocess: Callable[..., object]


class Pipeline:
    """Applies a task to one image, a list of images or an iterable of images.

    Images are paths, URLs, bytes, PIL images or arrays; an unreadable one raises `vitkit.ImageError`.
    """

    def __init__(
        self,
        task: str,
        model: ViTPreTrainedModel,
        image_processor: ViTImageProcessor,
        *,
        device: int | str | torch.device | None = None,
        batch_size: int | None = None,
        limits: Limits | None = None,
    ):
        self.task = task
        self.model = model.to(model.device if device in (None, -1) else device).eval()
        self.image_processor = image_processor
        self.batch_size = batch_size
        self.limits = limits

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def __call__(self, inputs: Images = None, **options: Argument) -> Any:
        """Returns the results for one or several images.

        `options` are those of the task, `batch_size`, and `timeout` (seconds, for URLs). `images` is another name for
        `inputs`. An unreadable image raises an `ImageError` that names it; with errors="return" the error takes the
        place of its result, and the other images are processed. Raises TypeError for an unknown option.
        """
        inputs = options.pop("images", inputs)
        batch_size = options.pop("batch_size", self.batch_size)
        timeout, errors = options.pop("timeout", 30.0), options.pop("errors", "raise")
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is '{errors}'; it must be 'raise' or 'return'")
        single = isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable) or hasattr(inputs, "__array__")
        images = (_read(image, timeout, self.limits) for image in ([inputs] if single else inputs))
        results = self._run(images, batch_size, errors, options)
        return next(results) if single else list(results) if isinstance(inputs, list | tuple) else results

    def _run(
        self, images: Iterable[ImageInput], batch_size: int | None, errors: str, options: dict[str, Argument]
    ) -> Iterator[object]:
        task = TASKS[self.task]
        network: Any = _SelectField(self.model, task.output_field(options))
        predictor = Predictor(
            network,
            self.image_processor.processor(),
            precision=PRECISIONS[self.model.dtype],
            device=str(self.device),
            batch_size=batch_size,
            limits=self.limits,
        )
        for index, outcome in enumerate(predictor.logits(images)):
            if outcome.error is None:
                yield task.postprocess(self.model.config, outcome.output, **options)
                continue
            error = named(outcome.error, outcome.source, index)
            if errors == "raise":
                raise error
            yield error


def _read(image: ImageInput, timeout: float | None, limits: Limits | None) -> ImageInput:
    if not (isinstance(image, str) and image.startswith(("http://", "https://"))):
        return image
    try:
        return download(image, timeout=timeout, limits=limits)
    except ImageError as error:  # in its place among the others
        return Unlisted(image, error)


FUNCTIONS: dict[str, Function] = {name: name for name in get_args(Function)}


def best_labels(
    config: ViTConfig, logits: np.ndarray, *, top_k: int | None = 5, function_to_apply: str | None = None
) -> list[dict[str, str | float]]:
    """Returns the `top_k` labels with the highest scores, best first.

    `function_to_apply` is "softmax", "sigmoid" or "none"; the default is that of `config.problem_type`.
    """
    meaning = configs.from_dict(Meaning, {} if config.problem_type is None else {"problem_type": config.problem_type})
    function = (function_to_apply or meaning.function(config.num_labels)).lower()
    if function not in FUNCTIONS:
        raise ValueError(f"unknown function_to_apply '{function}'; expected one of {', '.join(FUNCTIONS)}")
    scores = apply(FUNCTIONS[function], logits)
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": config.id2label[int(index)], "score": float(scores[index])} for index in best]


def features(
    config: ViTConfig, output: np.ndarray, *, pool: bool = False, return_tensors: bool = False
) -> Tensor | list[object]:
    """Returns the tokens (1, n, d) or the pooled vector (1, d), as nested lists or a torch tensor."""
    batch = torch.from_numpy(output)[None]
    return batch if return_tensors else batch.tolist()


TASKS = {
    "image-classification": Task(ViTForImageClassification, lambda options: "logits", best_labels),
    "image-feature-extraction": Task(ViTModel, lambda options: "pooler_output" if options.get("pool") else 0, features),
}


def pipeline(
    task: str | None = None,
    model: ViTPreTrainedModel | str | None = None,
    *,
    image_processor: ViTImageProcessor | str | None = None,
    feature_extractor: ViTImageProcessor | str | None = None,
    device: int | str | torch.device | None = None,
    batch_size: int | None = None,
    limits: Limits | None = None,
    **model_options: Argument,
) -> Pipeline:
    """Creates a pipeline for a model, or for a folder or Hub id from which the model is loaded.

    The task defaults to feature extraction for a `ViTModel`, else to classification; the processor to the one saved
    with the model. `model_options` are those of `from_pretrained` (dtype, revision, ...); `limits` (`vitkit.Limits`)
    bound the size of image files. Raises ValueError for an unknown task and if no processor is found.
    """
    if task is None:
        task = "image-feature-extraction" if isinstance(model, ViTModel) else "image-classification"
    if task not in TASKS:
        raise ValueError(f"unknown task '{task}'; expected one of {', '.join(TASKS)}")
    if isinstance(model, ViTPreTrainedModel):
        if model_options:
            raise TypeError(
                f"{', '.join(model_options)} can only be set when loading a model; pass a path instead of a model"
            )
        network = model
    else:
        network: ViTPreTrainedModel = TASKS[task].model_class.from_pretrained(model or DEFAULT, **model_options)
    processor = image_processor or feature_extractor or network.name_or_path
    if processor == "":
        raise ValueError(
            "the model was not loaded from a folder or Hub id, so its image processor is unknown; pass image_processor="
        )
    if not isinstance(processor, ViTImageProcessor):
        processor = ViTImageProcessor.from_pretrained(processor)
    return Pipeline(task, network, processor, device=device, batch_size=batch_size, limits=limits)
