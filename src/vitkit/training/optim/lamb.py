"""LAMB optimizer (You et al. 2020, "Large Batch Optimization for Deep Learning")."""

import torch
from torch.optim.optimizer import ParamsT

from vitkit.training.optim._combined import Closure, Group, evaluate_closure


class Lamb(torch.optim.Optimizer):
    """LAMB optimizer (You et al. 2020, algorithm 2), which scales the update of Adam by the norm of the weights.

    The update is w <- w - lr |w| / |u| u with u = m / (sqrt(v) + eps) + weight_decay w, where m and v
    are Adam's moments.

    A tensor without weight decay, or with |w| or |u| equal to 0, is updated as by Adam. This is how apex implements it,
    with which DeiT III was trained.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Performs one optimization step. The optional `closure` reevaluates the model and returns the loss."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update(parameter, group)
                    parameter.sub_(update.mul_(group["lr"]))
        return loss

    def _update(self, parameter: torch.Tensor, group: Group) -> torch.Tensor:
        """Returns the update of a parameter, before it is multiplied by the learning rate."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            # On the CPU, because every step reads it; float32 counts exactly up to 2^24, where bias correction is 1.
            state["step"] = torch.zeros(())
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = (1.0 - beta ** state["step"].item() for beta in group["betas"])
        state["first"].lerp_(gradient, 1.0 - group["betas"][0])
        state["second"].mul_(group["betas"][1]).addcmul_(gradient, gradient, value=1.0 - group["betas"][1])
        update = (state["first"] / first).div_((state["second"] / second).sqrt_().add_(group["eps"]))
        if not group["weight_decay"]:
            return update
        update.add_(parameter, alpha=group["weight_decay"])
        weight, step = (_full_norm(each) for each in (parameter, update))
        return update.mul_(torch.where((weight > 0) & (step > 0), weight / step, torch.ones_like(weight)))


def _full_norm(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the norm of a tensor. For a sharded tensor, this is the norm of the full tensor."""
    norm = tensor.norm()
    # The method of a DTensor; no isinstance, because its module is slow to import.
    full_tensor = getattr(norm, "full_tensor", None)
    return norm if full_tensor is None else full_tensor()
