"""`LoadedModel`: a model of `vitkit.load` with the outputs of transformers, for pipelines.

It supports exported models, and checkpoints that no class of transformers can hold, such as hybrids.
"""

import os
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.data.processor import Processor
from vitkit.inference import Classifier, load
from vitkit.transformers.outputs import BaseModelOutputWithPooling, ImageClassifierOutput

# Options of `from_pretrained` that `LoadedModel` supports, and options that it ignores.
OPTIONS = ("revision", "dtype", "torch_dtype")
IGNORED = ("trust_remote_code", "use_auth_token", "token", "cache_dir", "local_files_only", "low_cpu_mem_usage")


@dataclass(frozen=True)
class LabelConfig:
    """The fields of a transformers config that pipelines read: the labels and the problem type."""

    id2label: dict[int, str] = field(default_factory=dict)
    problem_type: str | None = None

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.id2label)


class LoadedModel(nn.Module):
    """A model of `vitkit.load` with the outputs of transformers: logits, or tokens and the pooled representation."""

    def __init__(self, classifier: Classifier, *, has_head: bool):
        super().__init__()
        task = classifier.config.task
        self.classifier = classifier
        self.has_head = has_head
        self.config = LabelConfig(dict(enumerate(classifier.labels)), task.problem_type)
        self.name_or_path = classifier.origin.source if classifier.origin else ""

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def is_exported(self) -> bool:
        """Whether the model is an exported model, which runs on the CPU only."""
        return self.classifier.model.is_exported

    @property
    def processor(self) -> Processor:
        """The image processor of the checkpoint."""
        return self.classifier.processor

    def forward(
        self, pixel_values: Float[Tensor, "b c height width"]
    ) -> ImageClassifierOutput | BaseModelOutputWithPooling:
        """Returns the outputs for preprocessed images. Regression outputs are in the units of the targets."""
        model, task = self.classifier.model, self.classifier.config.task
        if self.has_head:
            logits = model(pixel_values)
            return ImageClassifierOutput(logits=task.scores(logits) if task.regression else logits)
        features = model.features(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features.tokens, pooler_output=model.represent(features))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: bool) -> None:
        """Saves the model as a checkpoint of vitkit. `overwrite=True` replaces an existing folder."""
        self.classifier.save(save_directory, overwrite=options.get("overwrite", False))


def open_model(source: str, *, has_head: bool, options: dict[str, object]) -> LoadedModel | None:
    """Loads a checkpoint or an exported model. Returns None if it cannot be loaded or lacks a required head.

    `has_head` says whether a head is required. `options` are those of `from_pretrained`. Raises TypeError for an
    unsupported option.
    """
    given = {name: value for name, value in options.items() if value is not None and name not in IGNORED}
    if wrong := sorted(given.keys() - set(OPTIONS)):
        raise TypeError(
            f"{', '.join(wrong)} cannot be set for '{source}', which no model of transformers can hold; it has the "
            f"options {', '.join(OPTIONS)}"
        )
    revision, dtype = given.get("revision"), given.get("dtype", given.get("torch_dtype"))
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype, None)
    try:
        classifier = load(
            source,
            revision=revision if isinstance(revision, str) else None,
            dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32,
        )
    except (ValueError, OSError):
        return None
    return None if has_head and not classifier.labels else LoadedModel(classifier, has_head=has_head)
