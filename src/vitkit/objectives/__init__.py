"""Training objectives: one module per training method, each with `Config` and `build(config, backbone)`.

`Config` is a frozen dataclass, and `build` returns an `Objective`. A new objective is one new file here: it is found
by its file name and works with every model and the training loop. Whatever a method needs besides the backbone (a
teacher, a center, a mask token) is a submodule, parameter or buffer of the objective, so that it is moved, sharded,
saved and restored with it. An objective that does not read `Batch.targets` declares `NEEDS_LABELS = False`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.checkpoints.pretraining import Layout, load_parts
from vitkit.config import AnyConfig, Dataclass, Json, JsonDict
from vitkit.data import Source
from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.registry import Registry

_OBJECTIVES = Registry(__name__, "objective", ("Config", "build"))


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


def objectives() -> list[str]:
    """Returns the names of the objectives."""
    return _OBJECTIVES.names()


def objective(name: str) -> ModuleType:
    """Returns the Python module of an objective. Raises ValueError if the name is unknown."""
    return _OBJECTIVES.get(name)


def build(config: Dataclass, backbone: Backbone) -> Objective:
    """Builds the objective of a config for a backbone."""
    built: Objective = objective(_name(config)).build(config, backbone)
    return built


def needs_labels(config: Dataclass) -> bool:
    """Returns whether the objective of a config needs labeled images."""
    return bool(getattr(objective(_name(config)), "NEEDS_LABELS", True))


def fitted(config: AnyConfig, training: Source) -> AnyConfig:
    """Replaces config values such as `class_weights="balanced"` with numbers computed from the training data."""
    return config.fitted(training) if hasattr(config, "fitted") else config


def to_dict(config: Dataclass) -> JsonDict:
    """Converts the config of an objective to a dict for JSON. The key `objective` has the name of the objective."""
    return {"objective": _name(config), **configs.to_dict(config)}


def from_dict(data: Json) -> AnyConfig:
    """Converts the output of `to_dict` back to the config of an objective. Raises ValueError for an invalid dict."""
    if not isinstance(data.get("objective"), str):
        raise ValueError("the config of the objective has no field 'objective' with the name of an objective")
    rest = {key: value for key, value in data.items() if key != "objective"}
    return configs.from_dict(objective(data["objective"]).Config, rest, where="objective")


def _copy_progress_to_host(objective: Objective, _: object) -> None:
    objective.done = float(objective.get_buffer("progress").item())


def _name(config: object) -> str:
    return type(config).__module__.rpartition(".")[2]


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
