"""Objectives: one file a training method, each with a frozen `Config` and `build(config, backbone) -> Objective`.

A new objective is one new file here, found by its file name, and it then works with every model and the one loop. All
that a method needs beside the backbone (a teacher, a centre, a mask token) lives in it as submodules, parameters and
buffers, so it is moved, sharded, saved and restored with it.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.checkpoints.pretraining import Layout, load_parts
from vitkit.data import Source
from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.registry import Registry

_OBJECTIVES = Registry(__name__, "objective", ("Config", "build"))


class Objective(nn.Module, ABC):
    """A backbone with what it is trained for; `backbone` is what is evaluated and saved in the end."""

    backbone: Backbone
    done: float

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`, which is minimised, and further scalars worth seeing; all are means over the batch."""

    @property
    def phase(self) -> int:
        """Which part of its run it is in, from 0; a step of another part costs something else."""
        return 0

    def blocks(self) -> list[nn.Module]:
        """Blocks that are sharded, checkpointed and compiled one at a time: the encoder blocks of all its backbones."""
        return [block for part in self.modules() if isinstance(part, Backbone) for block in part.blocks]

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters of its own that enter the backbone before the first block, as a mask token does."""
        return ()

    def after_step(self, progress: float) -> None:
        """Called after every update of the weights; `progress` runs from just above 0 to 1 at the end of the run."""


def keep_progress(objective: Objective) -> None:
    """Gives an objective the buffer `progress` (0 to 1), which is saved with it, and its copy on the host, `done`.

    So that what depends on it need not wait for the device in every step.
    """
    objective.register_buffer("progress", torch.zeros(()))
    objective.done = 0.0
    objective.register_load_state_dict_post_hook(_read_progress)


def set_progress(objective: Objective, progress: float) -> None:
    """Sets the progress in both forms; the float is rounded as the buffer is, so that a resumed run has the same."""
    objective.get_buffer("progress").fill_(progress)
    objective.done = torch.tensor(progress, dtype=torch.float32).item()


def keep_by_digest(objective: Objective, name: str) -> None:
    """Leaves a part that never learns, and that a file of its own holds, out of the state of a run.

    In its place is its fingerprint, the buffer `name_digest`; to go on with another part is a ValueError.
    """
    objective.register_buffer(f"{name}_digest", digest(objective.get_submodule(name).state_dict()))
    objective.register_state_dict_post_hook(partial(_leave_out, name))
    objective.register_load_state_dict_pre_hook(partial(_put_in, name))


def load_into(objective: Objective, source: str, parts: Iterable[str], layouts: Sequence[Layout], *, what: str) -> None:
    """Puts the tensors of those names from a published checkpoint into an objective; errors as `load_parts`."""
    state = objective.state_dict()
    wanted = {name: tuple(state[name].shape) for name in parts}
    objective.load_state_dict(state | load_parts(source, wanted, layouts, what=what))


def digest(state: Mapping[str, Tensor]) -> Tensor:
    """The SHA-256 of named weights, (32,) bytes."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8).clone()


def objectives() -> list[str]:
    """Returns the names of the objectives."""
    return _OBJECTIVES.names()


def objective(name: str) -> ModuleType:
    """Returns the module of one objective; ValueError for an unknown name."""
    return _OBJECTIVES.get(name)


def build(config: Any, backbone: Backbone) -> Objective:
    """The objective of that config around a backbone."""
    built: Objective = objective(_name(config)).build(config, backbone)
    return built


def fitted(config: Any, training: Source) -> Any:
    """The config with what it leaves to the training pictures filled in (`class_weights="balanced"`)."""
    return config.fitted(training) if hasattr(config, "fitted") else config


def to_dict(config: Any) -> dict[str, Any]:
    """The JSON form of an objective's config: its fields, and its file name under `objective`."""
    return {"objective": _name(config), **configs.to_dict(config)}


def from_dict(data: Mapping[str, Any]) -> Any:
    """The config that `to_dict` gave as `data`; ValueError as `config.from_dict`."""
    if not isinstance(data.get("objective"), str):
        raise ValueError("the config of an objective needs its name under 'objective'")
    rest = {key: value for key, value in data.items() if key != "objective"}
    return configs.from_dict(objective(data["objective"]).Config, rest, where="objective")


def _read_progress(objective: Objective, _: object) -> None:
    objective.done = float(objective.get_buffer("progress").item())


def _name(config: Any) -> str:
    return type(config).__module__.rpartition(".")[2]


def _leave_out(part: str, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}{part}.")]:
        del state[name]


def _put_in(part: str, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.get(f"{prefix}{part}_digest")
    if saved is not None and not torch.equal(saved.cpu(), module.get_buffer(f"{part}_digest").cpu()):
        raise ValueError(f"the {part} is another than the one that this run began with; put that one back")
    for name, tensor in module.get_submodule(part).state_dict(prefix=f"{prefix}{part}.").items():
        state[name] = tensor
