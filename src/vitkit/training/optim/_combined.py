"""Combines several optimizers into one, and evaluates the closure argument of `torch.optim.Optimizer.step`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Closure = Callable[[], float]
# A parameter group, and the state dict of an optimizer, as torch.optim types them.
Group = dict[str, Any]
StateDict = dict[str, Any]


def evaluate_closure(closure: Closure | None) -> float | None:
    """Returns the loss that the closure of a step computes, with gradients enabled. Returns None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizer that combines several optimizers and contains the parameter groups of all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._link_groups()

    def _link_groups(self) -> None:
        # The same dicts, not copies, so that a learning rate set here is set in the part.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state.clear()
        for part in self.parts:
            self.state.update(part.state)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Performs one optimization step with every optimizer. The closure is called once."""
        loss = evaluate_closure(closure)
        for part in self.parts:
            part.step()
            self.state.update(part.state)
        return loss

    def state_dict(self) -> StateDict:
        """Returns the state dicts of all optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restores the output of `state_dict`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._link_groups()
