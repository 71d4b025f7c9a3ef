"""Every class of the families with small configs and inputs, for the tests that compare with transformers."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import vitkit.transformers

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
MLP = SMALL | {"intermediate_size": 48}
RELATIVE = MLP | {"use_relative_position_bias": True}
SHARED = MLP | {"use_shared_relative_position_bias": True, "use_mask_token": True, "use_mean_pooling": False}
ALL_POSITIONS = RELATIVE | {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}
FOUR_STAGES = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}
NO_AUXILIARY = {"use_auxiliary_head": False}
CONCAT = {"auxiliary_concat_input": True, "auxiliary_num_convs": 2, "auxiliary_channels": 12, "pool_scales": [1, 3]}
DECODER = MLP | {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "num_labels": 5}
BASIC = RESNET | {"layer_type": "basic", "hidden_act": "gelu", "downsample_in_first_stage": True}
GATED = MLP | {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True}


@dataclass(frozen=True)
class Case:
    """A model class, the settings of its config, and its inputs other than the images.

    `sized` models need `interpolate_pos_encoding=True` for other sizes; transformers cannot run `native` ones on other
    sizes.
    """

    kind: str
    config: str
    settings: dict[str, Any]
    inputs: tuple[str, ...] = ()
    sized: bool = False
    native: bool = False
    name: str = field(default="")

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}" if self.name else self.kind


CASES = [
    Case("DeiTModel", "DeiTConfig", MLP, ("mask",), sized=True),
    Case("DeiTForImageClassification", "DeiTConfig", MLP, ("labels",), sized=True),
    Case("DeiTForImageClassificationWithTeacher", "DeiTConfig", MLP | {"qkv_bias": False}, sized=True),
    Case("DeiTForMaskedImageModeling", "DeiTConfig", MLP | {"encoder_stride": 8}, ("mask",), sized=True, native=True),
    Case("BeitModel", "BeitConfig", RELATIVE),
    Case("BeitModel", "BeitConfig", ALL_POSITIONS | {"layer_scale_init_value": 0.0}, name="all positions"),
    Case("BeitForImageClassification", "BeitConfig", RELATIVE, ("labels",)),
    Case("BeitForMaskedImageModeling", "BeitConfig", SHARED | {"vocab_size": 50}, ("mask", "tokens")),
    Case("BeitBackbone", "BeitConfig", RELATIVE | {"out_features": ["stem", "stage2"]}),
    Case("BeitBackbone", "BeitConfig", ALL_POSITIONS | FOUR_STAGES | {"add_fpn": True}, name="pyramid"),
    Case("BeitForSemanticSegmentation", "BeitConfig", RELATIVE | FOUR_STAGES, ("pixel labels",)),
    Case("BeitForSemanticSegmentation", "BeitConfig", SHARED | FOUR_STAGES | NO_AUXILIARY, ("pixel labels",)),
    Case("BeitForSemanticSegmentation", "BeitConfig", MLP | FOUR_STAGES | CONCAT, ("pixel labels",), name="concat"),
    Case("ViTMAEModel", "ViTMAEConfig", MLP, ("noise",), sized=True),
    Case("ViTMAEForPreTraining", "ViTMAEConfig", DECODER, ("noise",), sized=True),
    Case(
        "ViTMAEForPreTraining", "ViTMAEConfig", DECODER | {"norm_pix_loss": True}, ("noise",), sized=True, name="norm"
    ),
    Case("ViTMSNModel", "ViTMSNConfig", MLP, sized=True),
    Case("ViTMSNForImageClassification", "ViTMSNConfig", MLP, ("labels",), sized=True),
    Case("Dinov2Model", "Dinov2Config", SMALL, ("mask",)),
    Case("Dinov2Model", "Dinov2Config", SMALL | {"use_swiglu_ffn": True, "hidden_act": "relu"}, name="swiglu"),
    Case("Dinov2ForImageClassification", "Dinov2Config", SMALL, ("labels",)),
    Case("Dinov2Backbone", "Dinov2Config", SMALL | {"out_features": ["stage1", "stage3"]}),
    Case("Dinov2Backbone", "Dinov2Config", SMALL | {"reshape_hidden_states": False}, name="tokens"),
    Case("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SMALL, ("mask",)),
    Case("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", SMALL, ("labels",)),
    Case("Dinov2WithRegistersBackbone", "Dinov2WithRegistersConfig", SMALL | {"out_indices": [0, 2]}),
    Case("DINOv3ViTModel", "DINOv3ViTConfig", MLP | {"num_register_tokens": 2}, ("mask",)),
    Case("DINOv3ViTModel", "DINOv3ViTConfig", GATED, name="gated"),
    Case("DINOv3ViTBackbone", "DINOv3ViTConfig", MLP | {"out_features": ["stem", "stage3"], "apply_layernorm": False}),
    Case("DINOv3ViTBackbone", "DINOv3ViTConfig", GATED | {"return_class_token": True}, name="class tokens"),
    Case("ResNetModel", "ResNetConfig", RESNET | {"downsample_in_bottleneck": True}),
    Case("ResNetForImageClassification", "ResNetConfig", RESNET, ("labels",)),
    Case("ResNetForImageClassification", "ResNetConfig", BASIC, ("labels",), name="basic"),
    Case("ResNetBackbone", "ResNetConfig", RESNET | {"out_features": ["stem", "stage2"]}),
]


def pair(hf: Any, case: Case) -> Any:
    """Creates a model of transformers and ours with the same weights."""
    torch.manual_seed(0)
    reference = getattr(hf, case.kind)(getattr(hf, case.config)(**case.settings)).eval()
    randomize(reference)
    ours = own(case)
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def own(case: Case) -> Any:
    """Creates our model of a case, with random weights."""
    config = getattr(vitkit.transformers, case.config)(**case.settings)
    return getattr(vitkit.transformers, case.kind)(config).eval()


@torch.no_grad()
def randomize(model: Any) -> None:
    """Changes all parameters: zeros and ones would hide swapped parameters."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.add_(0.1 * torch.rand_like(buffer))


def make_inputs(case: Case, height: int = 32, width: int = 32) -> dict[str, Tensor | bool]:
    """Creates the inputs of a case for an image size."""
    generator = torch.Generator().manual_seed(1)
    patches = (height // 8) * (width // 8)
    inputs: dict[str, Tensor | bool] = {"pixel_values": torch.randn(2, 3, height, width, generator=generator)}
    mask = torch.zeros(2, patches, dtype=torch.bool)
    mask[0, ::3], mask[1, 2:5] = True, True
    if "mask" in case.inputs and (case.kind not in ("DeiTModel",)):
        inputs["bool_masked_pos"] = mask
    if "tokens" in case.inputs:
        inputs["labels"] = torch.randint(50, (int(mask.sum()),), generator=generator)
    if "labels" in case.inputs:
        inputs["labels"] = torch.tensor([3, 1])
    if "pixel labels" in case.inputs:
        inputs["labels"] = torch.randint(5, (2, height, width), generator=generator)
        inputs["labels"][0, :3] = 255
    if "noise" in case.inputs:
        inputs["noise"] = torch.rand(2, patches, generator=generator)
    if case.sized:
        inputs["interpolate_pos_encoding"] = True
    return inputs
