"""Model outputs: access by key, attribute and position, as in transformers."""

import copy
import pickle
from types import ModuleType

import pytest
import torch
from torch.utils import _pytree as pytree

from vitkit import ViTConfig, ViTForImageClassification
from vitkit.transformers import BaseModelOutputWithPooling, ImageClassifierOutput, MaskedImageModelingOutput


def test_fields_and_their_order_match_transformers(hf: ModuleType) -> None:
    for cls in (BaseModelOutputWithPooling, ImageClassifierOutput, MaskedImageModelingOutput):
        original = getattr(hf.modeling_outputs, cls.__name__)
        assert list(cls.__dataclass_fields__) == list(original.__dataclass_fields__)


def test_none_fields_are_omitted() -> None:
    logits, attention = torch.ones(2, 3), torch.zeros(1)
    output = ImageClassifierOutput(logits=logits, attentions=(attention,))
    assert list(output) == list(output.keys()) == ["logits", "attentions"]
    assert output.loss is None
    assert output[0] is output["logits"] is output.logits is logits
    assert output[:1] == output.to_tuple()[:1] == (logits,)
    assert output[1] == output[-1] == (attention,)
    assert len(output) == 2
    assert "loss" not in output
    with pytest.raises(KeyError, match="no field 'loss'; the fields are logits, attentions"):
        output["loss"]
    assert output.to_tuple()[0] is logits
    output["loss"] = output.loss = torch.tensor(1.0)
    assert output["loss"] is output.loss
    assert MaskedImageModelingOutput(reconstruction=logits).logits is logits


def test_outputs_can_be_rebuilt_copied_pickled_and_flattened() -> None:
    output = ImageClassifierOutput(loss=torch.tensor(1.0), logits=torch.ones(2))
    rebuilt = type(output)({"loss": output.loss, "logits": output.logits})
    assert rebuilt.logits is output.logits
    assert list(rebuilt) == ["loss", "logits"]
    for other in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert isinstance(other, ImageClassifierOutput)
        assert list(other) == ["loss", "logits"]
        assert torch.equal(other.logits, output.logits)
    doubled = pytree.tree_map(lambda tensor: 2 * tensor, output)
    assert isinstance(doubled, ImageClassifierOutput)
    assert doubled.loss == 2


def test_return_dict_false_returns_a_tuple() -> None:
    model = ViTForImageClassification(
        ViTConfig(32, 1, 2, 64, image_size=16, patch_size=8, num_labels=3, output_hidden_states=True)
    )
    output = model(torch.zeros(1, 3, 16, 16))
    values = model(torch.zeros(1, 3, 16, 16), return_dict=False)
    assert type(values) is tuple
    assert len(values) == len(output) == 2
    model.config.return_dict = False
    assert type(model(torch.zeros(1, 3, 16, 16))) is tuple
    assert isinstance(model(torch.zeros(1, 3, 16, 16), return_dict=True), ImageClassifierOutput)
