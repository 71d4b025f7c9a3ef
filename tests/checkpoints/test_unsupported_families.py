"""Errors for unsupported families name the family instead of listing tensors."""

from pathlib import Path

import pytest
import torch

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError

NAMES = {
    "an MLP-Mixer": ["stem/kernel", "MixerBlock_0/token_mixing/Dense_0/kernel"],
    "a CLIP model": ["visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight"],
    "a two-tower model": ["logit_scale", "vision_model.embeddings.patch_embedding.weight"],
    "a ResNet": ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
    "a Swin Transformer": ["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"],
    "a NaFlex ViT": ["embeds.proj.weight", "blocks.0.norm1.weight"],
    "a convolutional or hierarchical network": ["stages.0.blocks.0.conv_dw.weight"],
}


@pytest.mark.parametrize("family", NAMES)
def test_family_is_named(family: str, tmp_path: Path) -> None:
    torch.save({name: torch.zeros(4, 3, 2, 2) for name in NAMES[family]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"the model is {family}.*, in a layout that vitkit does not support"):
        checkpoints.load(tmp_path / "x.pth")


def test_unknown_tensor_names(tmp_path: Path) -> None:
    torch.save({"encoder.weird\x1b[31m": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"the tensor names match none of the formats .*: 'encoder.weird\\x1b\[31m'"
    ):
        checkpoints.load(tmp_path / "x.pth")
    torch.save({"epoch": 3}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="the file contains no tensors"):
        checkpoints.load(tmp_path / "y.pth")
