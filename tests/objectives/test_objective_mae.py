"""MAE against transformers' ViTMAEForPreTraining with the same weights and noise: loss and reconstruction."""

import dataclasses

import pytest
import torch
from oracles import oracle

from vitkit import models
from vitkit.data.loader import Batch
from vitkit.models import deit, vit
from vitkit.objectives import mae

CONFIG = mae.Config(decoder_width=24, decoder_depth=2, decoder_heads=2)
MODEL = dataclasses.replace(vit.TINY, init="mae", num_classes=0)


def built(config: mae.Config = CONFIG, model: vit.Config | deit.Config = MODEL) -> mae.MAE:
    torch.manual_seed(0)
    return mae.build(config, models.build(model))


@pytest.mark.parametrize("changes", [{"position": "relative"}, {"position_at": "layers"}], ids=str)
def test_positions_inside_the_layers_are_rejected(changes: dict) -> None:
    with pytest.raises(ValueError, match="the layers of this model need positions of the full grid"):
        built(model=dataclasses.replace(MODEL, **changes))


def random_images(num: int = 3) -> torch.Tensor:
    return torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def blocks(state: dict[str, torch.Tensor], ours: str, theirs: str) -> dict[str, torch.Tensor]:
    renamed = {}
    for block in range(2):
        for kind in ("weight", "bias"):
            tensors = {name: state[f"{ours}.{block}.{name}.{kind}"] for name in
                    ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")}  # fmt: skip
            parts = tensors.pop("attn.qkv").chunk(3)
            pairs = {
                **{f"attention.{name}_proj": part for name, part in zip("qkv", parts, strict=True)},
                "attention.o_proj": tensors["attn.proj"],
                "mlp.fc1": tensors["mlp.fc1"],
                "mlp.fc2": tensors["mlp.fc2"],
                "layernorm_before": tensors["norm1"],
                "layernorm_after": tensors["norm2"],
            }
            renamed.update({f"{theirs}.{block}.{name}.{kind}": tensor for name, tensor in pairs.items()})
    return renamed


def transformers_mae(objective: mae.MAE, *, norm_pix_loss: bool) -> torch.nn.Module:
    transformers = oracle("transformers")
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=96, layer_norm_eps=1e-6, norm_pix_loss=norm_pix_loss, mask_ratio=0.75,
    )  # fmt: skip
    theirs, state = transformers.ViTMAEForPreTraining(config).eval(), objective.state_dict()
    heads = {
        "vit.embeddings.cls_token": "backbone.cls_token",
        "vit.embeddings.position_embeddings": "backbone.pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "backbone.patch_embed.proj.weight",
        "vit.embeddings.patch_embeddings.projection.bias": "backbone.patch_embed.proj.bias",
        "vit.layernorm.weight": "backbone.norm.weight",
        "vit.layernorm.bias": "backbone.norm.bias",
        "decoder.mask_token": "decoder.mask_token",
        "decoder.decoder_pos_embed": "decoder.decoder_pos_embed",
        **{f"decoder.{name}.{kind}": f"decoder.{name}.{kind}"
           for name in ("decoder_embed", "decoder_norm", "decoder_pred") for kind in ("weight", "bias")},
    }  # fmt: skip
    renamed = {name: state[ours] for name, ours in heads.items()}
    renamed |= blocks(state, "backbone.blocks", "vit.layers")
    renamed |= blocks(state, "decoder.decoder_blocks", "decoder.decoder_layers")
    theirs.load_state_dict(renamed)
    return theirs


@pytest.mark.parametrize("normalized", [True, False])
def test_loss_and_reconstruction_match_transformers(normalized: bool) -> None:
    objective = built(dataclasses.replace(CONFIG, normalized=normalized)).eval()
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if "pos_embed" not in name:
                parameter.normal_(std=0.2)
    noise, images = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)), random_images()
    theirs = transformers_mae(objective, norm_pix_loss=normalized)(images, noise=noise)
    predicted, masked = objective.reconstruct(images, noise)
    torch.testing.assert_close(masked.float(), theirs.mask)
    torch.testing.assert_close(predicted, theirs.logits, rtol=1e-5, atol=1e-5)
    # `forward` samples the same noise from torch's generator.
    torch.manual_seed(7)
    noise = torch.rand(3, 16)
    expected = transformers_mae(objective, norm_pix_loss=normalized)(images, noise=noise).loss
    torch.manual_seed(7)
    loss = objective(Batch(images, torch.ones(3, 1), ("",) * 3))["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_49_of_196_patches_are_visible_and_masks_differ_between_images() -> None:
    config = dataclasses.replace(MODEL, image_size=(56, 56), patch_size=(4, 4))
    objective = built(model=config)
    inputs: list[torch.Tensor] = []
    objective.backbone.blocks[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    _, masked = objective.reconstruct(torch.randn(2, 3, 56, 56), torch.rand(2, 196))
    assert inputs[0].shape[1] == 1 + 49
    assert (~masked).sum(dim=1).tolist() == [49, 49]
    assert not torch.equal(masked[0], masked[1])


def test_masked_pixels_do_not_affect_the_reconstruction() -> None:
    objective = built().eval()
    images, noise = random_images(1), torch.rand(1, 16)
    predicted, masked = objective.reconstruct(images, noise)
    (first, *_) = masked[0].nonzero()[:, 0].tolist()
    changed = images.clone()
    changed[:, :, 8 * (first // 4) : 8 * (first // 4) + 8, 8 * (first % 4) : 8 * (first % 4) + 8] += 1
    assert torch.equal(predicted, objective.reconstruct(changed, noise)[0])


def test_the_target_matches_its_formula() -> None:
    images = random_images(1)
    target = built().target(images)
    patch = images[0, :, 8:16, 24:32].permute(1, 2, 0).reshape(-1).double().numpy()  # (row, column, channel)
    expected = (patch - patch.mean()) / (patch.var(ddof=1) + 1e-6) ** 0.5
    torch.testing.assert_close(target[0, 7].double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_fixed_positions_and_several_special_tokens() -> None:
    assert not built().backbone.pos_embed.requires_grad
    learned = built(model=vit.TINY)
    assert isinstance(learned.backbone, vit.ViT)
    assert learned.backbone.pos_embed is not None
    assert learned.backbone.pos_embed.requires_grad
    for model in (deit.TINY, dataclasses.replace(vit.TINY, num_registers=3)):
        predicted, _ = built(model=model).reconstruct(random_images(), torch.rand(3, 16))
        assert predicted.shape == (3, 16, 192)


def test_unsupported_models_and_configs_are_rejected() -> None:
    from vitkit.models import beit

    with pytest.raises(ValueError, match="the blocks of BEiT need the full grid"):
        mae.build(CONFIG, models.build(beit.TINY))
    with pytest.raises(ValueError, match="needs a class token"):
        built(model=dataclasses.replace(vit.TINY, class_token=False, pool="gap"))
    with pytest.raises(ValueError, match="mask_ratio is 1"):
        mae.Config(mask_ratio=1.0)
    with pytest.raises(ValueError, match="masking 95% of 16 patches leaves no visible patch"):
        built(dataclasses.replace(CONFIG, mask_ratio=0.95)).reconstruct(random_images(), torch.rand(3, 16))
