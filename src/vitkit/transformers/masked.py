"""`ViTForMaskedImageModeling`: hidden patches painted anew, as in SimMIM (Xie et al. 2022)."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange, repeat
from einops.layers.torch import Rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.transformers.arguments import either_order
from vitkit.transformers.configuration import ViTConfig, pair
from vitkit.transformers.model import ViTModel, Which
from vitkit.transformers.outputs import MaskedImageModelingOutput
from vitkit.transformers.pretrained import ViTPreTrainedModel


class ViTForMaskedImageModeling(ViTPreTrainedModel):
    """A ViT with a mask token, and a decoder that paints `encoder_stride` pixels a side for every patch.

    Pictures and patches need not be square, nor of the config's size where positions are interpolated.
    """

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.vit = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        rows, columns = pair(config.encoder_stride)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, rows * columns * config.num_channels, kernel_size=1),
            Rearrange("b (c p q) r s -> b c (r p) (s q)", p=rows, q=columns),
        )
        self.finish()

    @either_order(("pixel_values", "bool_masked_pos", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        head_mask: Tensor | None = None,
        output_attentions: Which = None,
        output_hidden_states: Which = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> MaskedImageModelingOutput | tuple[Any, ...]:
        """Pixels (b, c, height, width), and the loss where patches are masked; arguments as in `ViTModel.forward`.

        Raises ValueError for a mask where the decoder does not paint whole patches.
        """
        patch, stride = self.config.patch_size, self.config.encoder_stride
        if bool_masked_pos is not None and pair(patch) != pair(stride):
            raise ValueError(
                "When `bool_masked_pos` is provided, `patch_size` must be equal to `encoder_stride` to ensure that the "
                "reconstructed image has the same dimensions as the input. "
                f"Got `patch_size` = {patch} and `encoder_stride` = {stride}."
            )
        outputs = self.vit(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            return_dict=True,
        )
        grid = self.vit.embeddings.patch_embeddings.grid_of(*pixel_values.shape[2:])  # type: ignore[union-attr]
        patches = rearrange(outputs.last_hidden_state[:, 1:], "b (r s) d -> b d r s", r=grid[0], s=grid[1])
        pixels = self.decoder(patches)
        loss = None
        if bool_masked_pos is not None:
            loss = masked_loss(pixel_values, pixels, bool_masked_pos, grid)  # type: ignore[arg-type]
        output = MaskedImageModelingOutput(
            loss=loss, reconstruction=pixels, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()


def masked_loss(
    images: Float[Tensor, "b c height width"],
    painted: Float[Tensor, "b c rows columns"],
    mask: Shaped[Tensor, "b p"],
    grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """The mean absolute difference over the pixels of masked patches (SimMIM, section 3.4).

    A remainder of the pictures that fills no patch does not count.
    """
    height, width = painted.shape[2:]
    rows, columns = height // grid[0], width // grid[1]
    pixels = repeat(mask, "b (r s) -> b 1 (r p) (s q)", r=grid[0], p=rows, q=columns)
    difference = F.l1_loss(images[:, :, :height, :width], painted, reduction="none")
    return (difference * pixels).sum() / (pixels.sum() + 1e-5) / images.shape[1]
