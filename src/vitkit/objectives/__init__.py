"""Training objectives: one module per training method, each with `Config` and `build(config, backbone)`.

`Config` is a frozen dataclass, and `build` returns an `Objective`. A new objective is one new file here: it is found
by its file name and works with every model and the training loop. Whatever a method needs besides the backbone (a
teacher, a center, a mask token) is a submodule, parameter or buffer of the objective, so that it is moved, sharded,
saved and restored with it. An objective that does not read `Batch.targets` declares `NEEDS_LABELS = False`.
"""

import dataclasses
import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import cast, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.checkpoints.pretraining import Layout, load_parts
from vitkit.config import AnyConfig, Dataclass, Json, JsonDict
from vitkit.data import Source
from vitkit.data.loader import Batch
from vitkit.discovery import Component, PluginError
from vitkit.models import Backbone
from vitkit.registry import Registry, namespace, options_class


class Objective(nn.Module, ABC):
    """Base class of training objectives, which compute the loss. `backbone` is the model to evaluate and save."""

    backbone: Backbone
    done: float

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns the `loss` to minimize and other scalars to log. All values are means over the batch."""

    @property
    def phase(self) -> int:
        """Index of the current training phase, from 0. FLOPs per step can differ between phases."""
        return 0

    def blocks(self) -> list[nn.Module]:
        """Returns the encoder blocks of all backbones, for sharding, activation checkpointing and compilation."""
        return [block for part in self.modules() if isinstance(part, Backbone) for block in part.blocks]

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Returns the parameters outside the backbone that are inputs of its first block, such as a mask token."""
        return ()

    def after_step(self, progress: float) -> None:
        """Updates the objective after every optimizer step. `progress` is the completed fraction of the run."""


def add_progress(objective: Objective) -> None:
    """Adds the buffer `progress` (completed fraction of the run) to an objective, with a CPU copy named `done`.

    Code that reads `done` does not synchronize with the device.
    """
    objective.register_buffer("progress", torch.zeros(()))
    objective.done = 0.0
    objective.register_load_state_dict_post_hook(_copy_progress_to_host)


def set_progress(objective: Objective, progress: float) -> None:
    """Sets `progress` and `done` of an objective, both rounded to float32 so that resumed runs get the same value."""
    objective.get_buffer("progress").fill_(progress)
    objective.done = torch.tensor(progress, dtype=torch.float32).item()


def save_digest_only(objective: Objective, name: str) -> None:
    """Replaces the weights of a frozen submodule in the state dict of an objective with their hash.

    The state dict has the buffer `{name}_digest`, a hash of the submodule's weights, instead. Loading it into an
    objective whose submodule has other weights raises ValueError.
    """
    objective.register_buffer(f"{name}_digest", digest(objective.get_submodule(name).state_dict()))
    objective.register_state_dict_post_hook(partial(_remove_from_state_dict, name))
    objective.register_load_state_dict_pre_hook(partial(_insert_into_state_dict, name))


def load_into(objective: Objective, source: str, parts: Iterable[str], layouts: Sequence[Layout], *, what: str) -> None:
    """Loads the tensors `parts` of a published checkpoint into an objective. Raises the same errors as `load_parts`."""
    state = objective.state_dict()
    wanted = {name: tuple(state[name].shape) for name in parts}
    objective.load_state_dict(state | load_parts(source, wanted, layouts, what=what))


def digest(state: Mapping[str, Tensor]) -> Tensor:
    """Returns the SHA-256 hash of the weights in a state dict, as a tensor of 32 bytes."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        sha256.update(name.encode())
        sha256.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(sha256.digest()), dtype=torch.uint8).clone()


LossFunction = Callable[..., Tensor | dict[str, Tensor]]


class FunctionObjective(Objective):
    """Objective of a function `loss(backbone, batch, **options)`, which returns the loss or a dict of scalars."""

    def __init__(self, function: LossFunction, config: AnyConfig, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.function = function

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns the `loss` of a batch, and other scalars if the function returns a dict."""
        options = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(self.config)}
        found = self.function(self.backbone, batch, **options)
        scalars = {"loss": found} if isinstance(found, Tensor) else found
        if not isinstance(scalars, dict) or not isinstance(scalars.get("loss"), Tensor) or scalars["loss"].ndim:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}"
            name = getattr(self.function, "__name__", "loss")
            raise PluginError(
                f"the objective '{name}' returned {what}; expected a scalar tensor, or a dict with 'loss'"
            )
        return scalars


NEEDS = {
    "Config": "a frozen dataclass with the options, all with default values",
    "build": "a function build(config, backbone) that returns an Objective",
}
FORM = "loss(backbone, batch, *, gamma: float = 2.0) with any options"


def _validate(module: ModuleType) -> None:
    """Raises PluginError if `Config` or `build` of an objective does not match `NEEDS`."""
    if not isinstance(module.Config, type) or not dataclasses.is_dataclass(module.Config):
        raise PluginError(f"Config is {module.Config!r}; expected {NEEDS['Config']}")
    required = [each.name for each in dataclasses.fields(module.Config)
                if each.init and each.default is each.default_factory is dataclasses.MISSING]  # fmt: skip
    if required:
        raise PluginError(f"the field {required[0]} of Config has no default value; expected {NEEDS['Config']}")
    if not callable(module.build):
        raise PluginError(f"build is {module.build!r}; expected {NEEDS['build']}")
    if isinstance(module.build, type) and inspect.isabstract(module.build):
        names = ", ".join(sorted(module.build.__abstractmethods__))
        raise PluginError(f"{module.build.__name__} has no method {names}; define forward(self, batch)")
    try:
        inspect.signature(module.build).bind(None, None)
    except TypeError:
        raise PluginError(f"build takes {inspect.signature(module.build)}; expected build(config, backbone)") from None


def _adapt(component: Component) -> ModuleType:
    """Wraps a function (see `FORM`), or a subclass of `Objective`, as the module of an objective."""
    target = component.target
    labels = bool(getattr(target, "NEEDS_LABELS", True))
    if isinstance(target, type) and issubclass(target, Objective):
        config = getattr(target, "Config", None) or get_type_hints(target.__init__).get("config")
        if config is None:
            raise PluginError(
                f"'{component.name}' of {component.origin} does not say which config it takes; annotate it: "
                "__init__(self, config: Config, backbone: Backbone)"
            )
        return namespace(component, Config=config, build=target, NEEDS_LABELS=labels)
    if not callable(target) or isinstance(target, type):
        raise PluginError(f"'{component.name}' of {component.origin} is {target!r}; expected a function {FORM}")
    options, function = options_class(component, 2, FORM, defaults=True), cast(LossFunction, target)
    return namespace(component, Config=options, build=partial(FunctionObjective, function), NEEDS_LABELS=labels)


_OBJECTIVES = Registry(__name__, "objective", NEEDS, plugin_kind="objective", adapt=_adapt, validate=_validate)


def objectives() -> list[str]:
    """Returns the names of the objectives."""
    return _OBJECTIVES.names()


def objective(name: str) -> ModuleType:
    """Returns the Python module of an objective, by its name or in a file (`./mine.py`, `./mine.py:loss`).

    Raises ValueError if the name is unknown, and PluginError if the module lacks a part of its contract.
    """
    return _OBJECTIVES.find(name)


def build(config: Dataclass, backbone: Backbone) -> Objective:
    """Builds the objective of a config for a backbone."""
    built = _OBJECTIVES.get(name_of(config)).build(config, backbone)
    if not isinstance(built, Objective):
        raise PluginError(f"build of the objective '{name_of(config)}' returned {built!r}; expected an Objective")
    return built


def name_of(config: Dataclass) -> str:
    """Returns the name of the objective to which a config belongs."""
    return _OBJECTIVES.name_of(type(config))


def needs_labels(config: Dataclass) -> bool:
    """Returns whether the objective of a config needs labeled images."""
    return bool(getattr(_OBJECTIVES.get(name_of(config)), "NEEDS_LABELS", True))


def fitted(config: AnyConfig, training: Source) -> AnyConfig:
    """Replaces config values such as `class_weights="balanced"` with numbers computed from the training data."""
    return config.fitted(training) if hasattr(config, "fitted") else config


def to_dict(config: Dataclass) -> JsonDict:
    """Converts the config of an objective to a dict for JSON. The key `objective` has the name of the objective."""
    return {"objective": name_of(config), **configs.to_dict(config)}


def from_dict(data: Json) -> AnyConfig:
    """Converts the output of `to_dict` back to the config of an objective. Raises ValueError for an invalid dict."""
    if not isinstance(data.get("objective"), str):
        raise ValueError("the config of the objective has no field 'objective' with the name of an objective")
    rest = {key: value for key, value in data.items() if key != "objective"}
    return configs.from_dict(_OBJECTIVES.get(data["objective"]).Config, rest, where="objective")


def _copy_progress_to_host(objective: Objective, _: object) -> None:
    objective.done = float(objective.get_buffer("progress").item())


def _remove_from_state_dict(
    part: str, module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}{part}.")]:
        del state[name]


def _insert_into_state_dict(part: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    saved = state.get(f"{prefix}{part}_digest")
    if saved is not None and not torch.equal(saved.cpu(), module.get_buffer(f"{part}_digest").cpu()):
        raise ValueError(
            f"the weights of '{part}' have changed since this run started; resume with the original weights"
        )
    for name, tensor in module.get_submodule(part).state_dict(prefix=f"{prefix}{part}.").items():
        state[name] = tensor
