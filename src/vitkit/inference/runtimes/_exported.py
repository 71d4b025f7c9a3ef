"""Loads exported models as backbones whose forward pass runs in another runtime.

Everything that reads logits, representations or tokens (`Predictor`, `Classifier`, evaluators) accepts such a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import models
from vitkit.checkpoints import CheckpointError
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.preprocessing import stated
from vitkit.config import AnyConfig, from_dict
from vitkit.data.processor import Processor
from vitkit.layers import Blocks, Features, TapOptions, check_axes, check_filled, check_floats
from vitkit.registry import Registry
from vitkit.regular import check_regular

#: Maps float32 images (b, c, h, w) and output names to these outputs, in order.
Runner = Callable[[np.ndarray, Sequence[str]], list[np.ndarray]]
VERSION = 1
_RUNTIMES = Registry("vitkit.inference.runtimes", "export target", ("FILE", "TOLERANCES", "open_file", "write"))


@dataclass(frozen=True, kw_only=True)
class Export:
    """Settings of an exported model, stored under the key `export` in its config.json.

    `outputs` are the names of the model's outputs in order: `logits` (if it has classes), `representation` (if it is
    not the tokens) and `tokens`, with the layout in `grid` and `num_special`. With `dynamic_size` the model accepts
    every image size, and `grid` is that of the native size. `difference` is the largest difference from the outputs of
    the original model; of an int8 model it is relative to their standard deviation on the calibration images, and
    `agreement` is the fraction of these images with the same predicted class.
    """

    target: str
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int
    width: int
    precision: str
    difference: float = 0.0
    dynamic_size: bool = False
    agreement: float | None = None


@dataclass(frozen=True)
class ExportedFeatures(Features):
    """Tokens of an exported model, with the representation and logits of the same forward pass."""

    representation: Tensor | None = None
    logits: Tensor | None = None


class ExportedModel(models.Backbone):
    """A backbone that runs an exported model on the CPU in float32. The batch size is dynamic.

    The image size is fixed unless the export has a dynamic size.

    It cannot be trained, saved or moved to another device or dtype: these raise ValueError.
    """

    def __init__(self, config: AnyConfig, export: Export, runner: Runner):
        super().__init__()
        self.config = config
        self.export = export
        self.width = export.width
        self.head = nn.Identity()
        self._runner = runner
        # A parameter, so that callers that read device and dtype of the parameters find them.
        self.placeholder = nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def is_exported(self) -> bool:
        """Whether the model runs in another runtime. Always True for this class."""
        return True

    @property
    def num_taps(self) -> int:
        """Always 0, because an exported model has no block outputs."""
        return 0

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> ExportedFeatures:
        """Returns the tokens with logits and representation. Raises ValueError if `blocks` is given."""
        if blocks is not None:
            raise ValueError(
                "an exported model does not return the outputs of its blocks; load the original checkpoint instead"
            )
        outputs = self._run(images, self.export.outputs)
        representation = outputs.get("representation", outputs["tokens"])
        return ExportedFeatures(
            tokens=outputs["tokens"],
            grid=self._grid(images.shape[2], images.shape[3]),
            num_special=self.export.num_special,
            representation=representation,
            logits=outputs.get("logits", representation),
        )

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """Returns the representation stored in the features. Raises ValueError for features of another model."""
        return _stored(features, "representation")

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """Returns the logits stored in the features. Raises ValueError for features of another model."""
        return _stored(features, "logits")

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Returns the logits of normalized images, or the representation if the model has no classes."""
        first = self.export.outputs[0]
        return self._run(images, (first,))[first]

    def init_weights(self) -> None:
        """Raises ValueError, because the weights are in the exported file."""
        raise ValueError("an exported model cannot be initialized; its weights are in the exported file")

    def reset_head(self, num_classes: int) -> None:
        """Raises ValueError, because the head is in the exported file."""
        raise ValueError("the head of an exported model cannot be changed; change the checkpoint and export it again")

    def state_dict(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises ValueError, because the weights are in the exported file."""
        raise ValueError("an exported model has no state dict; load the original checkpoint instead")

    def resize(self, image_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None) -> None:
        """Changes the native image size. Raises ValueError if the model was exported with a fixed size."""
        if patch_size is not None or not self.export.dynamic_size:
            raise ValueError(
                "the image size and patch size of this exported model are fixed; export the checkpoint again with "
                "other sizes"
            )
        if image_size is not None:
            self.config = replace(self.config, image_size=image_size)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        if not self.export.dynamic_size:
            return self.export.grid
        rows, columns = replace(self.config, image_size=(height, width)).grid
        return rows, columns

    def _run(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        check_axes(images)
        check_floats(images)
        wanted = (self.config.channels, *self.config.image_size)
        if self.export.dynamic_size:
            if images.shape[1] != wanted[0]:
                raise ValueError(
                    f"the model has {wanted[0]} input channels, but the images have {images.shape[1]} channels"
                )
            self._grid(images.shape[2], images.shape[3])  # raises ValueError for an image smaller than one patch
            if patch_size := getattr(self.config, "patch_size", None):
                check_filled((images.shape[2], images.shape[3]), patch_size, self.config.image_size)
        elif tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"the model was exported for images of shape {wanted}, not {tuple(images.shape[1:])}; "
                "export it again with --image-size or --dynamic-size"
            )
        pixels = np.ascontiguousarray(images.detach().float().cpu().numpy())
        arrays = self._runner(pixels, outputs)
        return {name: torch.from_numpy(array) for name, array in zip(outputs, arrays, strict=True)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExportedModel":
        moved = fn(self.placeholder)
        if moved.device.type != "cpu" or moved.dtype != torch.float32:
            raise ValueError(
                f"an exported model runs only on the CPU in float32, not in {moved.dtype} on {moved.device}"
            )
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "ExportedModel":
        # It is immutable, and the session of a runtime cannot be copied.
        return self


def _stored(features: Features, name: str) -> Tensor:
    value = getattr(features, name, None)
    if value is None:
        raise ValueError(
            "an exported model accepts only features that it computed itself; call `features` of the same model"
        )
    return value


def targets() -> list[str]:
    """Returns the names of the runtimes to which models can be exported."""
    return _RUNTIMES.names()


def runtime(target: str) -> ModuleType:
    """Returns the module of a runtime by name. Raises ValueError if the name is unknown."""
    return _RUNTIMES.get(target)


def is_export(folder: Path) -> bool:
    """Returns whether a folder contains an exported model."""
    path = folder / "config.json"
    return path.is_file() and isinstance(read_json(path).get("export"), dict)


def load_export(folder: Path) -> tuple[ExportedModel, Processor, tuple[str, ...]]:
    """Loads the model, processor and labels of an exported model. Raises CheckpointError if a file is invalid."""
    try:
        return _load_export(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{folder}: config.json: {error}") from None


def _load_export(folder: Path) -> tuple[ExportedModel, Processor, tuple[str, ...]]:
    config_json = read_json(folder / "config.json")
    if config_json.get("vitkit") != VERSION:
        raise CheckpointError(
            f"unsupported export version {config_json.get('vitkit')!r}; this release of vitkit supports {VERSION}"
        )
    export = from_dict(Export, config_json["export"], where="export")
    if "tokens" not in export.outputs or len(export.grid) != 2 or min(*export.grid, export.width) < 1:
        raise ValueError(
            "the export must have an output named 'tokens', and a patch grid of at least 1 x 1; "
            f"it has the outputs {export.outputs} and the grid {export.grid}"
        )
    config = models.from_dict(config_json["model"] if isinstance(config_json.get("model"), dict) else {})
    config.task.check(config.num_classes)
    labels = config_json.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("the field 'labels' is not a list of strings")
    processor_json = read_json(folder / "preprocessor_config.json")
    processor = stated(lambda: Processor.from_huggingface(processor_json), "preprocessor_config.json")
    module = runtime(export.target)
    if not (folder / module.FILE).exists():
        raise CheckpointError(f"the model file {module.FILE} is missing")
    for path in folder.rglob("*"):  # the runtime may open others, such as one with the weights
        if not path.is_dir():
            check_regular(path)
    return (
        ExportedModel(config, export, module.open_file(folder / module.FILE, export.outputs)),
        processor,
        tuple(labels),
    )
