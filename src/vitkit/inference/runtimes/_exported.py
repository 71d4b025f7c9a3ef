"""Backends: what runs an exported model; one file for each target, found by its file name.

A backend is a file with `FILE`, the name of the model's file in the folder of an export, and
`open_file(path, outputs) -> Runner`. `exported(folder)` makes a `Backbone` of the folder, so that whatever reads
logits, representations or tokens (`Predictor`, `Classifier`, every evaluator) takes an exported model as any other.
An export comes from a stranger like any checkpoint: no backend runs code that lies in a file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import models
from vitkit.checkpoints import CheckpointError
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.preprocessing import stated
from vitkit.config import from_dict
from vitkit.data.processor import Processor
from vitkit.layers import Features
from vitkit.registry import Registry

#: Images (b, c, h, w) in float32 and the names of the outputs that are wanted to those outputs, in that order.
Runner = Callable[[np.ndarray, Sequence[str]], list[np.ndarray]]
VERSION = 1
_RUNTIMES = Registry("vitkit.inference.runtimes", "export target", ("FILE", "TOLERANCES", "open_file", "write"))


@dataclass(frozen=True, kw_only=True)
class Export:
    """What config.json says of an export under `export`.

    `outputs` names the model's outputs in order: `logits` (where it has classes), `representation` (where that is not
    the tokens), and `tokens`, laid out as `grid` and `num_special` say. `difference` is how far the farthest of them
    was from the model's own.
    """

    target: str
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int
    width: int
    precision: str
    difference: float = 0.0


@dataclass(frozen=True)
class Answered(Features):
    """Features of an exported model, with what it has made of them."""

    representation: Tensor | None = None
    logits: Tensor | None = None


class Exported(models.Backbone):
    """An exported model as a backbone: the CPU in float32, images of one size, any number of them at a time.

    It has no weights to train, save or move: these are ValueErrors.
    """

    def __init__(self, config: Any, export: Export, runner: Runner):
        super().__init__()
        self.config = config
        self.export = export
        self.width = export.width
        self.head = nn.Identity()
        self._runner = runner
        # Whoever asks a model's parameters where and in what type it computes finds the answer here.
        self.computes = nn.Parameter(torch.empty(0), requires_grad=False)

    def features(self, images: Float[Tensor, "b c height width"]) -> Answered:
        """The tokens, with the logits and the representation that came with them."""
        found = self._run(images, self.export.outputs)
        representation = found.get("representation", found["tokens"])
        return Answered(
            tokens=found["tokens"],
            grid=self.export.grid,
            num_special=self.export.num_special,
            representation=representation,
            logits=found.get("logits", representation),
        )

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """What came with the features; ValueError for another model's."""
        return _given(features, "representation")

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """What came with the features; ValueError for another model's."""
        return _given(features, "logits")

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """The logits alone."""
        first = self.export.outputs[0]
        return self._run(images, (first,))[first]

    def init_weights(self) -> None:
        """There is nothing to fill: ValueError."""
        raise ValueError("an exported model has no weights to fill")

    def reset_head(self, num_classes: int) -> None:
        """An exported head stays: ValueError."""
        raise ValueError("an exported model keeps its head: change the checkpoint's, and export it again")

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights lie in the exported file: ValueError."""
        raise ValueError("an exported model gives no weights away: its checkpoint has them")

    def _run(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        wanted = (self.config.channels, *self.config.image_size)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"the model was exported for images of shape {wanted}, not {tuple(images.shape[1:])}: "
                "export it again with --image-size"
            )
        pixels = np.ascontiguousarray(images.detach().numpy(), dtype=np.float32)
        answers = self._runner(pixels, outputs)
        return {name: torch.from_numpy(answer) for name, answer in zip(outputs, answers, strict=True)}

    def _apply(self, fn: Any, recurse: bool = True) -> "Exported":
        moved = fn(self.computes)
        if moved.device.type != "cpu" or moved.dtype != torch.float32:
            raise ValueError(
                f"an exported model runs on the CPU and takes float32, not {moved.dtype} on {moved.device}"
            )
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exported":
        # Nothing in it changes, and a runtime's session cannot be copied.
        return self


def _given(features: Features, name: str) -> Tensor:
    found = getattr(features, name, None)
    if found is None:
        raise ValueError("an exported model reads only features that it has given itself")
    return found


def targets() -> list[str]:
    """Returns the names of the runtimes."""
    return _RUNTIMES.names()


def runtime(target: str) -> ModuleType:
    """Returns the module of one runtime; ValueError for an unknown name."""
    return _RUNTIMES.get(target)


def is_export(folder: Path) -> bool:
    """Whether this is the folder of an exported model."""
    path = folder / "config.json"
    return path.is_file() and isinstance(read_json(path).get("export"), dict)


def exported(folder: Path) -> tuple[Exported, Processor, tuple[str, ...]]:
    """The model of an export's folder, its processor and labels; CheckpointError, one line, where it is none."""
    try:
        return _exported(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{folder}: config.json: {error}") from None


def _exported(folder: Path) -> tuple[Exported, Processor, tuple[str, ...]]:
    stated_config = read_json(folder / "config.json")
    if stated_config.get("vitkit") != VERSION:
        raise CheckpointError(f"an export of version {stated_config.get('vitkit')!r}; this vitkit reads {VERSION}")
    export = from_dict(Export, stated_config["export"], where="export")
    if "tokens" not in export.outputs or len(export.grid) != 2 or min(*export.grid, export.width) < 1:
        raise ValueError(f"an export gives tokens, not {export.outputs} of grid {export.grid}")
    config = models.from_dict(stated_config["model"] if isinstance(stated_config.get("model"), dict) else {})
    labels = stated_config.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels is not a list of texts")
    words = read_json(folder / "preprocessor_config.json")
    processor = stated(lambda: Processor.from_huggingface(words), "preprocessor_config.json")
    module = runtime(export.target)
    if not (folder / module.FILE).is_file():
        raise CheckpointError(f"there is no {module.FILE}, which holds the model")
    return Exported(config, export, module.open_file(folder / module.FILE, export.outputs)), processor, tuple(labels)
