"""Batch normalization whose statistics can be frozen."""

from jaxtyping import Float
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm over dimension 1 of a tensor with any number of trailing dimensions.

    State dict, modes and statistics are those of torch's. `initial` is the initial scale. A frozen layer (`freeze`)
    stays in evaluation mode: it normalizes with its running statistics and does not update them.
    """

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1, initial: float = 1.0):
        super().__init__(width, eps=eps, momentum=momentum)
        self.initial = initial
        self.frozen = False
        nn.init.constant_(self.weight, initial)

    def forward(self, input: Float[Tensor, "b c *n"]) -> Float[Tensor, "b c *n"]:  # noqa: A002
        """Normalizes each channel of `input`, then scales and shifts it.

        Raises ValueError in training mode if a channel has a single value, whose variance is zero.
        """
        if self.training and input.numel() == input.shape[1]:
            raise ValueError(
                f"a batch norm in training mode got one value per channel (input of shape {tuple(input.shape)}); use "
                "at least 2 images per process and micro-batch, larger images, or freeze the batch norms"
            )
        return super().forward(input)

    @property
    def statistics(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """The running mean and the running variance of each channel."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None, "a batch norm tracks its statistics"
        assert variance is not None, "a batch norm tracks its statistics"
        return mean, variance

    def freeze(self) -> None:
        """Freezes the statistics: sets evaluation mode, which later calls of `train` do not change."""
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> "BatchNorm":
        """Sets training or evaluation mode. A frozen layer stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def init_weights(self) -> None:
        """Initializes scale (`initial`), shift (0), running mean (0), running variance (1) and batch counter (0)."""
        self.reset_parameters()
        nn.init.constant_(self.weight, self.initial)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.ndim < 2:
            raise ValueError(f"batch norm expects an input of shape (batch, channels, ...), got {tuple(input.shape)}")
