"""The encoder layer of the Hugging Face ViT and its activations."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import MLP, DropPath, layer_norm
from vitkit.layers.activations import ACTIVATIONS
from vitkit.transformers.attention import ViTAttention
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.names import Shelf

# The names of transformers for what a ViT may use.
MODULES: dict[str, Callable[[], nn.Module]] = {
    name: each.module for each in ACTIVATIONS.values() for name in each.transformers
}


def make_activation(name: str) -> nn.Module:
    """The activation of that name of transformers; ValueError that lists them all for an unknown one."""
    if name not in MODULES:
        raise ValueError(f"unknown activation '{name}'; there is {', '.join(sorted(MODULES))}")
    return MODULES[name]()


class ViTLayer(nn.Module):
    """One encoder layer: attention, then an MLP, each behind a LayerNorm and added to its input.

    The order of `vitkit.layers.Block` under the names of transformers; dropout only at the end of each branch.
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.attention = ViTAttention(config)
        self.layernorm_before = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.layernorm_after = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.mlp.act = make_activation(config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path)

    @property
    def intermediate(self) -> Shelf:
        """Where the first dense layer of the MLP was before 5.9."""
        return Shelf(dense=(self.mlp, "fc1"))

    @property
    def output(self) -> Shelf:
        """Where the second dense layer of the MLP was before 5.9."""
        return Shelf(dense=(self.mlp, "fc2"))

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        attention_mask: Float[Tensor, "..."] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
    ) -> Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """The tokens after both branches; with `output_attentions` a pair, the attention weights second."""
        attended, weights = self.attention(
            self.layernorm_before(hidden_states), attention_mask, head_mask, output_attentions
        )
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        hidden_states = hidden_states + self.drop_path(self.dropout(self.mlp(self.layernorm_after(hidden_states))))
        return (hidden_states, weights) if output_attentions else hidden_states
