"""Masked patch prediction and SimMIM: masks, corruption and targets against loops and transformers."""

import dataclasses
import math

import pytest
import torch
from oracles import oracle
from torch.nn import functional

from vitkit import models
from vitkit.data.loader import Batch
from vitkit.models import beit, bit, vit
from vitkit.objectives import masked, simmim


def random_images(num: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(5)) * 2 - 1


def batch(images: torch.Tensor) -> Batch:
    return Batch(images, torch.ones(images.shape[0], 1), ("",) * images.shape[0])


def built(**changes: object) -> masked.Masked:
    torch.manual_seed(0)
    return masked.build(masked.Config(**changes), models.build(vit.TINY))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["mean_color", "small_colors"])
def test_color_classes_match_a_loop(target: str) -> None:
    objective, images = built(target=target, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), random_images()
    pixels = masked.patch_pixels(images, (4, 4), (8, 8))
    ours = objective.colors(pixels.flatten(0, 1))
    side = 8 if target == "mean_color" else 2
    for row in range(16):
        top, left = 8 * (row // 4), 8 * (row % 4)
        classes = []
        for y in range(top, top + 8, side):
            for x in range(left, left + 8, side):
                number = 0
                for channel, (mean, std) in enumerate(zip((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), strict=True)):
                    value = float(images[1, channel, y : y + side, x : x + side].double().mean()) * std + mean
                    number += min(7, max(0, math.floor(value * 8))) * 8**channel
                classes.append(number)
        assert ours[16 + row].tolist() == classes


@pytest.mark.parametrize(("target", "outputs"), [("mean_color", 512), ("small_colors", 16 * 512), ("pixels", 192)])
def test_the_loss_covers_the_corrupted_patches_only(target: str, outputs: int) -> None:
    objective, images = built(target=target), random_images()
    assert objective.predict.out_features == outputs
    torch.manual_seed(3)
    scalars = objective(batch(images))
    torch.manual_seed(3)
    chosen = masked.random_mask(3, 16, 0.5)
    embedded = objective.backbone.embed(images)
    encoded = objective.backbone.encode(objective.corrupt(embedded, chosen))
    losses = []
    for image in range(3):
        for patch in range(16):
            if not chosen[image, patch]:
                continue
            predicted = objective.predict(encoded.patches[image, patch])
            pixels = masked.patch_pixels(images, (4, 4), (8, 8))[image, patch]
            if target == "pixels":
                losses.append((predicted - pixels.flatten()).square().mean())
                continue
            (classes,) = objective.colors(pixels[None])
            each = predicted.reshape(classes.shape[0], 512)
            losses.extend(-each[cell].log_softmax(0)[number] for cell, number in enumerate(classes))
    torch.testing.assert_close(scalars["loss"], torch.stack(losses).mean())


def test_ratios_of_corruption_and_unchanged_positions() -> None:
    objective = built()
    torch.nn.init.zeros_(objective.backbone.get_parameter("patch_embed.proj.weight"))
    embedded = objective.backbone.embed(torch.zeros(1, 3, 32, 32))
    # Patch embeddings without position are their own index.
    position = masked.patch_positions(objective.backbone, embedded)
    indices = torch.arange(16.0)[None, :, None].expand(500, -1, 32)
    tokens = torch.cat([embedded.special.expand(500, -1, -1), indices + position], dim=1)
    chosen = masked.random_mask(500, 16, 0.5)
    assert (chosen.sum(dim=1) == 8).all()
    corruption_ratio = objective.corrupt(embedded.with_tokens(tokens), chosen)
    assert torch.equal(corruption_ratio.special, tokens[:, :1])
    after = corruption_ratio.patches - position
    hidden = (after - objective.mask_token).abs().amax(dim=2) < 1e-5
    same = (after - indices).abs().amax(dim=2) < 1e-4
    assert same[~chosen].all()
    assert not hidden[~chosen].any()
    swapped = chosen & ~hidden & ~same
    assert (after[swapped] - after[swapped].round()).abs().max() < 1e-4  # the index of another patch
    for kind, ratio in ((hidden, 0.8), (swapped, 0.1), (same & chosen, 0.1)):
        assert kind[chosen].float().mean().item() == pytest.approx(ratio, abs=0.025)


def test_mask_tokens_have_position_embeddings() -> None:
    for config in (vit.TINY, beit.TINY, beit.Config(**{**vars(beit.TINY), "position": "learned"})):
        backbone = models.build(config)
        assert isinstance(backbone, models.TokenBackbone)
        embedded = backbone.embed(random_images())
        everything = torch.ones(3, 16, dtype=torch.bool)
        table = backbone.positions((4, 4))
        hidden = masked.apply_mask(embedded, backbone, torch.ones(32), everything)
        expected = torch.ones(1, 16, 32) if table is None else 1 + table[:, -16:]
        torch.testing.assert_close(hidden.patches, expected.expand(3, -1, -1))
        torch.testing.assert_close(hidden.special, embedded.special)


def test_unsupported_backbones_and_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match="masks tokens before the first block, but BiT has no tokens"):
        masked.build(masked.Config(), models.build(bit.TINY))
    with pytest.raises(ValueError, match="SimMIM masks tokens"):
        simmim.build(simmim.Config(), models.build(bit.TINY))
    with pytest.raises(ValueError, match="mean has 1 values and std 3, but the model takes 3 channels"):
        built(mean=(0.5,))
    with pytest.raises(ValueError, match="corruption_ratio is 0"):
        masked.Config(corruption_ratio=0.0)
    with pytest.raises(ValueError, match="their sum must be at most 1"):
        masked.Config(replaced=0.8, swapped=0.3)
    with pytest.raises(ValueError, match="unit 12 is not a multiple of the patch size 8x8"):
        simmim.build(simmim.Config(unit=12), models.build(vit.TINY))


def test_simmim_masks_120_of_196_patches_in_complete_units() -> None:
    mask = simmim.unit_mask(50, (14, 14), (2, 2), 0.6)
    assert (mask.sum(dim=1) == 120).all()
    units = mask.reshape(50, 7, 2, 7, 2)
    assert (units.amax(dim=(2, 4)) == units.amin(dim=(2, 4))).all()
    assert mask.float().mean(dim=0).std() > 0  # the masks differ
    assert simmim.unit_mask(2, (3, 5), (2, 2), 0.5).shape == (2, 15)
    assert simmim.unit_mask(2, (5, 1), (1, 1), 0.6).sum(dim=1).tolist() == [3, 3]


def test_simmim_matches_the_formula_of_transformers() -> None:
    torch.manual_seed(0)
    objective, images = simmim.build(simmim.Config(unit=16), models.build(vit.TINY)), random_images()
    torch.manual_seed(3)
    loss = objective(batch(images))["loss"]
    torch.manual_seed(3)
    mask = simmim.unit_mask(3, (4, 4), (2, 2), 0.6)
    embedded = objective.backbone.embed(images)
    encoded = objective.backbone.encode(masked.apply_mask(embedded, objective.backbone, objective.mask_token, mask))
    # ViTForMaskedImageModeling: a 1x1 convolution, pixel shuffle, and an L1 loss over the mask upsampled to pixels.
    weight = objective.decoder.weight[:, :, None, None]
    image = functional.pixel_shuffle(functional.conv2d(encoded.map, weight, objective.decoder.bias), 8)
    pixels = mask.reshape(3, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2).unsqueeze(1).contiguous()
    error = functional.l1_loss(images, image, reduction="none")
    torch.testing.assert_close(loss, (error * pixels).sum() / (pixels.sum() + 1e-5) / 3)


def test_simmim_matches_transformers_with_the_same_weights() -> None:
    transformers = oracle("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        encoder_stride=8, layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.ViTForMaskedImageModeling(config).eval()
    torch.manual_seed(1)
    objective = simmim.build(simmim.Config(unit=16), models.build(vit.TINY)).eval()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.normal_(std=0.2)
    copy_vit(theirs.vit, objective.backbone)
    with torch.no_grad():
        theirs.vit.embeddings.mask_token.copy_(objective.mask_token.view(1, 1, -1))
        theirs.decoder[0].weight.copy_(objective.decoder.weight[:, :, None, None])
        theirs.decoder[0].bias.copy_(objective.decoder.bias)
    torch.manual_seed(3)
    loss = objective(batch(random_images()))["loss"]
    torch.manual_seed(3)
    mask = simmim.unit_mask(3, (4, 4), (2, 2), 0.6)
    torch.testing.assert_close(loss, theirs(random_images(), bool_masked_pos=mask).loss, rtol=1e-5, atol=1e-5)


def copy_vit(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    """Copies the weights of our tiny ViT to a transformers model."""
    state = ours.state_dict()
    renamed = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    for block in range(2):
        for kind in ("weight", "bias"):
            parts = state[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)
            pairs = {
                **{f"attention.{name}_proj": part for name, part in zip("qkv", parts, strict=True)},
                "attention.o_proj": state[f"blocks.{block}.attn.proj.{kind}"],
                "mlp.fc1": state[f"blocks.{block}.mlp.fc1.{kind}"],
                "mlp.fc2": state[f"blocks.{block}.mlp.fc2.{kind}"],
                "layernorm_before": state[f"blocks.{block}.norm1.{kind}"],
                "layernorm_after": state[f"blocks.{block}.norm2.{kind}"],
            }
            renamed.update({f"layers.{block}.{name}.{kind}": tensor for name, tensor in pairs.items()})
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert not [name for name in missing if "mask_token" not in name and "pooler" not in name]


def test_images_smaller_than_their_grid_are_rejected() -> None:
    with pytest.raises(ValueError, match="images of 20x16 pixels are smaller than 2x1 patches of 16x16"):
        masked.patch_pixels(torch.zeros(1, 3, 20, 16), (2, 1), (16, 16))
    assert dataclasses.asdict(masked.Config())["bits"] == 3
