"""What torch's optimisers may be handed: a function that computes the loss again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Closure = Callable[[], float]


def loss_of(closure: Closure | None) -> float | None:
    """What the closure of a step gives, computed with gradients; None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Together(torch.optim.Optimizer):
    """Steps all of its parts; their groups are its groups, so that rates are set through it."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        # The very groups of the parts, not copies: a rate set here is the rate there.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state.clear()
        for part in self.parts:
            self.state.update(part.state)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One update of every part; the closure is called once."""
        loss = loss_of(closure)
        for part in self.parts:
            part.step()
            self.state.update(part.state)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of every part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes back to what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
