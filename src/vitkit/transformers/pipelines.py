"""`pipeline("image-classification")` and `pipeline("image-feature-extraction")`, on `vitkit.inference.Predictor`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitkit.inference import Predictor
from vitkit.transformers.batch import fetch
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.image_processing import ViTImageProcessor
from vitkit.transformers.modeling import ViTForImageClassification, ViTModel
from vitkit.transformers.pretrained import ViTPreTrainedModel

DEFAULT = "google/vit-base-patch16-224"
PRECISIONS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class _Answer(nn.Module):
    """One field of a model's output, as the predictor takes networks."""

    def __init__(self, model: ViTPreTrainedModel, field: str | int):
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, images: Tensor) -> Tensor:
        """The field for those images."""
        output = self.model(images)
        if self.field not in output and isinstance(self.field, str):
            raise ValueError(
                "No pooled output was returned. Make sure the model has a `pooler` layer when using the `pool` option."
            )
        return output[self.field]


@dataclass(frozen=True)
class Task:
    """What a pipeline does: with a kind of model, a field of its output, and what people get of one picture's row.

    `field` and `answer` take the options of a call; `answer` also the model's config and the row.
    """

    family: type[ViTPreTrainedModel]
    field: Callable[[Mapping[str, Any]], str | int]
    answer: Callable[..., Any]


class Pipeline:
    """Images in, answers out; one image gives one answer, a list a list, anything else that is iterated an iterator.

    Images are paths, addresses, bytes, PIL pictures or arrays; an unreadable one raises `vitkit.ImageError`.
    """

    def __init__(
        self,
        task: str,
        model: ViTPreTrainedModel,
        image_processor: ViTImageProcessor,
        *,
        device: int | str | torch.device | None = None,
        batch_size: int | None = None,
    ):
        self.task = task
        self.model = model.to(model.device if device in (None, -1) else device).eval()
        self.image_processor = image_processor
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """The answers; `options` are those of the task, and `batch_size` and `timeout` (seconds, for addresses).

        `images` is another name for the first argument. Raises TypeError for options that the task does not have.
        """
        inputs = options.pop("images", inputs)
        batch_size = options.pop("batch_size", self.batch_size)
        timeout = options.pop("timeout", 30.0)
        single = isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable) or hasattr(inputs, "__array__")
        images = (_read(image, timeout) for image in ([inputs] if single else inputs))
        answers = self._answers(images, batch_size, options)
        return next(answers) if single else list(answers) if isinstance(inputs, list | tuple) else answers

    def _answers(self, images: Iterable[Any], batch_size: int | None, options: dict[str, Any]) -> Iterator[Any]:
        task = TASKS[self.task]
        network: Any = _Answer(self.model, task.field(options))
        predictor = Predictor(
            network,
            self.image_processor.processor(),
            precision=PRECISIONS[self.model.dtype],
            device=str(self.device),
            batch_size=batch_size,
        )
        for outcome in predictor.logits(images):
            if outcome.error is not None:
                raise outcome.error
            yield task.answer(self.model.config, outcome.output, **options)


def _read(image: Any, timeout: float | None) -> Any:
    address = isinstance(image, str) and image.startswith(("http://", "https://"))
    return fetch(image, timeout=timeout) if address else image


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "none": lambda logits: logits,
}


def best_labels(
    config: ViTConfig, logits: np.ndarray, *, top_k: int | None = 5, function_to_apply: str | None = None
) -> list[dict[str, Any]]:
    """The `top_k` labels, best first; scores by "softmax", "sigmoid" or "none", as fits the model by default."""
    sigmoid = config.problem_type == "multi_label_classification" or config.num_labels == 1
    function = (function_to_apply or ("sigmoid" if sigmoid else "softmax")).lower()
    if function not in FUNCTIONS:
        raise ValueError(f"unknown function_to_apply '{function}'; there is {', '.join(FUNCTIONS)}")
    scores = FUNCTIONS[function](logits)
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": config.id2label[int(index)], "score": float(scores[index])} for index in best]


def features(config: ViTConfig, output: np.ndarray, *, pool: bool = False, return_tensors: bool = False) -> Any:
    """One picture's tokens (1, n, d) or pooled vector (1, d): nested lists, or a torch tensor."""
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
    **model_options: Any,
) -> Pipeline:
    """A pipeline of a task for a model, or for a folder or hub id of one, with its processor beside it by default.

    Without a task, a model that classifies is taken to classify. `model_options` are those of `from_pretrained`
    (dtype, revision, ...). Raises ValueError for an unknown task and for a model without its processor.
    """
    if task is None:
        task = "image-feature-extraction" if isinstance(model, ViTModel) else "image-classification"
    if task not in TASKS:
        raise ValueError(f"unknown task '{task}'; there is {', '.join(TASKS)}")
    if isinstance(model, ViTPreTrainedModel):
        if model_options:
            raise TypeError(f"options for loading a model, {', '.join(model_options)}, but the model is there already")
        network = model
    else:
        network: ViTPreTrainedModel = TASKS[task].family.from_pretrained(model or DEFAULT, **model_options)
    processor = image_processor or feature_extractor or network.name_or_path
    if processor == "":
        raise ValueError("a model that was not loaded from anywhere needs image_processor=")
    if not isinstance(processor, ViTImageProcessor):
        processor = ViTImageProcessor.from_pretrained(processor)
    return Pipeline(task, network, processor, device=device, batch_size=batch_size)
