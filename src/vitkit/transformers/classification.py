"""`ViTForImageClassification`: a linear layer on the class token."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.transformers.arguments import either_order
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.losses import classification_loss
from vitkit.transformers.model import ViTModel, Which
from vitkit.transformers.outputs import ImageClassifierOutput
from vitkit.transformers.pretrained import ViTPreTrainedModel


class ViTForImageClassification(ViTPreTrainedModel):
    """A ViT that classifies, or, with one label, regresses; with `num_labels=0` it gives the class token."""

    # Trainer then says how many pictures a step has over all its batches.
    accepts_loss_kwargs: ClassVar[bool] = True

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.finish()

    @either_order(("pixel_values", "labels", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: Which = None,
        output_hidden_states: Which = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits (b, classes), and the loss where there are labels; arguments as in `ViTModel.forward`."""
        outputs = self.vit(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else classification_loss(logits, labels, self.config, num_items_in_batch)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()
