"""Pre-training from published checkpoints: decoders, mask tokens and heads in the formats of their authors."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from torch import Tensor, nn

from vitkit import checkpoints, models, objectives
from vitkit.checkpoints import CheckpointError
from vitkit.models import beit as beits
from vitkit.models import vit
from vitkit.objectives import beit, dino, mae, simmim

TINY = {
    "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64,
}  # fmt: skip
VIT = dataclasses.replace(vit.TINY, width=32, depth=2, num_heads=2, mlp_width=64, num_classes=0, norm_eps=1e-12)
BEIT = dataclasses.replace(beits.TINY, num_classes=0, pool="token", relative="shared")
MAE = mae.Config(decoder_width=16, decoder_depth=2, decoder_heads=2)
SIMMIM = simmim.Config(unit=8)
BEIT_OBJECTIVE = beit.Config(codes=16, code_width=4, hidden=8, smallest=2)
DINO = dino.Config(outputs=16, hidden=12, bottleneck=8, local_crops=1)


def random(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def build_random(config: Any, seed: int = 1) -> objectives.Objective:
    """Returns an objective with random weights."""
    model = BEIT if isinstance(config, simmim.Config | beit.Config) else VIT
    built = objectives.build(config, models.build(model))
    random(built, seed)
    return built


def token(tensor: Tensor) -> Tensor:
    return tensor[None, None]


def test_mae_loads_a_full_file(tmp_path: Path) -> None:
    one = build_random(MAE)
    assert isinstance(one, mae.MAE)
    state = {**one.encoder.state_dict(), **one.decoder.state_dict()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "mae_full.pth")
    other = build(dataclasses.replace(MAE, start=str(tmp_path / "mae_full.pth")))
    assert isinstance(other, mae.MAE)
    assert_equal(one.decoder.state_dict(), other.decoder.state_dict())


def build(config: Any) -> objectives.Objective:
    return objectives.build(config, models.build(BEIT if isinstance(config, simmim.Config | beit.Config) else VIT))


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mae_loaded_from_transformers_has_the_same_reconstruction(tmp_path: Path) -> None:
    transformers = oracle("transformers")
    config = transformers.ViTMAEConfig(
        **TINY, decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, norm_pix_loss=True,
    )  # fmt: skip
    theirs = random(transformers.ViTMAEForPreTraining(config), 2).eval()
    theirs.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    backbone = checkpoints.load(tmp_path / "theirs").model
    ours = objectives.build(dataclasses.replace(MAE, start=str(tmp_path / "theirs")), backbone)
    assert isinstance(ours, mae.MAE)
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        predicted, masked = ours.reconstruct(images, noise)
        loss = (predicted - ours.target(images)).square().mean(dim=2)[masked].mean()
    torch.testing.assert_close(predicted, expected.logits, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(loss, expected.loss, atol=1e-4, rtol=1e-4)
    # Names of transformers before version 5.
    state = {}
    for name, tensor in _written(tmp_path / "theirs").items():
        state[name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")] = tensor
    torch.save(state, tmp_path / "four.pth")
    again = build(dataclasses.replace(MAE, start=str(tmp_path / "four.pth")))
    assert isinstance(again, mae.MAE)
    assert_equal(again.decoder.state_dict(), ours.decoder.state_dict())


def _written(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("official", [True, False], ids=["official", "transformers"])
def test_beit_loads_its_mask_token_and_head(official: bool, tmp_path: Path) -> None:
    one = build_random(BEIT_OBJECTIVE)
    assert isinstance(one, beit.BEiT)
    head = {"lm_head.weight": one.lm_head.weight, "lm_head.bias": one.lm_head.bias}
    where = "mask_token" if official else "beit.embeddings.mask_token"
    state = {where: token(one.mask_token), **head, "rel_pos_bias.relative_position_index": torch.zeros(3)}
    torch.save({"model": state} if official else state, tmp_path / "beit.pth")
    other = build(dataclasses.replace(BEIT_OBJECTIVE, start=str(tmp_path / "beit.pth")))
    assert isinstance(other, beit.BEiT)
    assert torch.equal(one.mask_token, other.mask_token)
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("where", ["encoder.mask_token", "vit.embeddings.mask_token"])
def test_simmim_loads_its_mask_token_and_decoder(where: str, tmp_path: Path) -> None:
    one = build_random(SIMMIM)
    assert isinstance(one, simmim.SimMIM)
    decoder = {"decoder.0.weight": one.decoder.weight[:, :, None, None], "decoder.0.bias": one.decoder.bias}
    torch.save({"model": {where: token(one.mask_token), **decoder}}, tmp_path / "simmim.pth")
    other = build(dataclasses.replace(SIMMIM, start=str(tmp_path / "simmim.pth")))
    assert isinstance(other, simmim.SimMIM)
    assert torch.equal(one.mask_token, other.mask_token)
    assert torch.equal(one.decoder.weight, other.decoder.weight)
    assert torch.equal(one.decoder.bias, other.decoder.bias)


def test_dino_loads_student_teacher_heads_and_centre_from_a_full_checkpoint(tmp_path: Path) -> None:
    one = build_random(DINO)
    assert isinstance(one, dino.DINO)
    one.center.normal_()
    file = {
        "student": {f"module.{name}": value for name, value in _pair(one.student, one.student_head).items()},
        "teacher": _pair(one.backbone, one.teacher_head),
        "dino_loss": {"center": one.center},
        "epoch": 7,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(file, tmp_path / "full_checkpoint.pth")
    other = build(dataclasses.replace(DINO, start=str(tmp_path / "full_checkpoint.pth")))
    assert_equal(one.state_dict(), other.state_dict())
    # A model with classes: DINO's file has no classification heads, so they do not change.
    classes = dataclasses.replace(VIT, num_classes=5)
    built = objectives.build(
        dataclasses.replace(DINO, start=str(tmp_path / "full_checkpoint.pth")), models.build(classes)
    )
    assert torch.equal(built.state_dict()["student.norm.weight"], one.student.norm.weight)  # type: ignore[arg-type]
    # The file also loads as a model: the teacher's backbone, with notes on ignored weights.
    loaded = checkpoints.load(tmp_path / "full_checkpoint.pth", config={"num_heads": 2})
    assert torch.equal(loaded.model.state_dict()["norm.weight"], one.backbone.norm.weight)  # type: ignore[arg-type]
    notes = {"weights under 'teacher.backbone.'", "ignored: student.backbone (another copy of the weights)"}
    assert notes <= {*loaded.origin.notes}


def _pair(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    parts = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    return parts | {f"head.{name}": value for name, value in head.state_dict().items()}


def test_the_error_names_missing_tensors(tmp_path: Path) -> None:
    one = build_random(MAE)
    torch.save({"model": one.backbone.state_dict()}, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match=r"encoder\.pth has no MAE's decoder; its tensors are"):
        build(dataclasses.replace(MAE, start=str(tmp_path / "encoder.pth")))
    assert isinstance(one, mae.MAE)
    state = one.decoder.state_dict()
    torch.save({"model": {name: each for name, each in state.items() if name != "mask_token"}}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="MAE's decoder: 1 tensor is missing: mask_token"):
        build(dataclasses.replace(MAE, start=str(tmp_path / "less.pth")))
    torch.save({"model": state}, tmp_path / "full.pth")
    with pytest.raises(CheckpointError, match=r"of the wrong shape|unknown"):
        build(dataclasses.replace(MAE, start=str(tmp_path / "full.pth"), decoder_depth=1, decoder_width=32))
