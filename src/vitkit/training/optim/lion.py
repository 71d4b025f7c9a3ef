"""Lion optimizer (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms")."""

import torch
from torch.optim.optimizer import ParamsT

from vitkit.training.optim._combined import Closure, evaluate_closure


class Lion(torch.optim.Optimizer):
    """Lion optimizer (Chen et al. 2023, algorithm 2), whose update is the sign of an interpolated momentum.

    The update is w <- w - lr (sign(b1 m + (1 - b1) g) + weight_decay w), then m <- b2 m + (1 - b2) g.

    Updates are larger than Adam's: the paper uses a 3 to 10 times smaller learning rate and a weight decay larger by
    the same factor.
    """

    def __init__(self, params: ParamsT, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Performs one optimization step. The optional `closure` reevaluates the model and returns the loss."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                direction = torch.lerp(parameter.grad, momentum, first).sign_()
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1.0 - second)
        return loss
