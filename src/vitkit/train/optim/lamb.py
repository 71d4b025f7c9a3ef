"""LAMB: Adam's step, as long for each tensor as the tensor itself (You et al. 2020, "Large Batch Optimization")."""

from typing import Any

import torch

from vitkit.train.optim._combined import Closure, loss_of


class Lamb(torch.optim.Optimizer):
    """w <- w - rate |w| / |u| u with u = m / (sqrt(v) + eps) + weight_decay w, the moments as Adam's (algorithm 2).

    A tensor without weight decay takes Adam's own step, as in the code (apex) that DeiT III was trained with, and so
    does one where either norm is 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One update; `closure` computes the loss again, as in torch's own optimisers."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update(parameter, group)
                    parameter.sub_(update.mul_(group["lr"]))
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """The step at a rate of 1."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            # A tensor on the CPU: it is read at every step, and counts beyond what float32 holds do not matter.
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
        ours, theirs = (_whole(each.norm()) for each in (parameter, update))
        return update.mul_(torch.where((ours > 0) & (theirs > 0), ours / theirs, torch.ones_like(ours)))


def _whole(norm: torch.Tensor) -> torch.Tensor:
    """The norm of a whole tensor where each process has a part of it, communicated once."""
    # A DTensor, whose module takes a while to import where nothing is shared.
    whole = getattr(norm, "full_tensor", None)
    return norm if whole is None else whole()
