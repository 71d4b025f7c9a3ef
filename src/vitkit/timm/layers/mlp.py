"""MLPs with timm's arguments and module names."""

from torch import Tensor, nn

from vitkit import layers
from vitkit.layers import activation
from vitkit.timm.layers._settings import LayerType, act_name


class Mlp(layers.MLP):
    """MLP with two linear layers, an activation and dropout."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        act_layer: LayerType | None = None,
        *,
        drop: float = 0.0,
    ):
        super().__init__(in_features, hidden_features or in_features, act=act_name(act_layer))
        del self.dropout
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


class GluMlp(layers.SwiGLU):
    """SwiGLU MLP with one matrix for gate and value ("SwiGLUPacked"). `hidden_features` is their total width."""

    def __init__(self, in_features: int, hidden_features: int, *, drop: float = 0.0):
        super().__init__(in_features, hidden_features // 2)
        del self.dropout
        self.act = activation("silu")
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(gate) * value))))


class SwiGLU(nn.Module):
    """SwiGLU MLP with separate matrices for gate and value. The hidden width is a multiple of `align_to`."""

    def __init__(self, in_features: int, hidden_features: int, *, drop: float = 0.0, align_to: int = 0):
        super().__init__()
        hidden_features += -hidden_features % align_to if align_to else 0
        self.fc1_g = nn.Linear(in_features, hidden_features)
        self.fc1_x = nn.Linear(in_features, hidden_features)
        self.act = activation("silu")
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1_g(x)) * self.fc1_x(x)))))
