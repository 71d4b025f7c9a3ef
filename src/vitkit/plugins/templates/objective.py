"""A training objective: the focal loss (Lin et al. 2017), which down-weights easy images.

    vitkit check ./my_objective.py
    vitkit train digits.tiny --objective ./my_objective.py --set objective.gamma=1

The objective is named after the file. A loss without parameters of its own can also be a function:

    @vitkit.plugins.register_objective
    def my_objective(backbone, batch, *, gamma: float = 2.0):
        return ...  # a scalar tensor
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.objectives import Objective

# An objective that does not read batch.targets, such as self-supervised training, sets this to False.
NEEDS_LABELS = True


# The options. Every field has a default value; --set objective.gamma=1 changes one, and config.json saves them.
@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of the objective. With `gamma` 0 the loss is the cross-entropy."""

    gamma: float = 2.0

    def __post_init__(self) -> None:
        """Raises ValueError if a field is out of range."""
        if self.gamma < 0.0:
            raise ValueError(f"gamma is {self.gamma}; it must be at least 0")


class MyObjective(Objective):
    """Focal loss. Submodules, parameters and buffers of this class are trained, moved and saved with the run."""

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if backbone.config.num_classes == 0:
            raise ValueError("the focal loss needs a model with classes; set num_classes")
        self.config = config
        self.backbone = backbone

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns the `loss` to minimize, and other numbers to log. All of them are means over the batch.

        `batch.images` is (b, channels, height, width), and `batch.targets` (b, classes) is one-hot, or mixed by Mixup.
        """
        logits = self.backbone(batch.images).float()  # float32 also under autocast
        log_probabilities = F.log_softmax(logits, dim=1)
        easiness = (1 - log_probabilities.exp()) ** self.config.gamma
        loss = -(batch.targets * easiness * log_probabilities).sum(dim=1).mean()
        hits = logits.argmax(dim=1) == batch.targets.argmax(dim=1)
        return {"loss": loss, "accuracy": hits.float().mean()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Updates the objective after every step, such as an EMA teacher. `progress` runs from 0 to 1."""


def build(config: Config, backbone: Backbone) -> MyObjective:
    """Builds the objective for a model. Raise ValueError here if the model does not fit."""
    return MyObjective(config, backbone)
