"""Every output of every model, in five configs, beside transformers' own."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitkit import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from vitkit.transformers import ViTPreTrainedModel

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 48, "patch_size": 8},
    "google": {"hidden_size": 64, "num_attention_heads": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
    "grey": {"num_channels": 1, "qkv_bias": False, "hidden_act": "relu", "patch_size": 4, "encoder_stride": 4},
    "pooled": {
        "pooler_output_size": 24,
        "pooler_act": "gelu",
        "image_size": 56,
        "patch_size": 14,
        "encoder_stride": 14,
    },
    "clip": {"hidden_act": "quick_gelu", "image_size": 40, "num_attention_heads": 8, "initializer_range": 0.1},
}
COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 5,
}
# For each number, of its own size and absolutely.
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2}}
DTYPES = [torch.float32, torch.bfloat16]
KINDS = ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"]
OURS = {kind.__name__: kind for kind in (ViTModel, ViTForImageClassification, ViTForMaskedImageModeling)}


def pair(theirs: ModuleType, kind: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """The same weights in their model and ours."""
    torch.manual_seed(0)
    reference = getattr(theirs, kind)(theirs.ViTConfig(**COMMON | settings)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            # Biases and norms too: zeros and ones would hide a swap.
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = OURS[kind](ViTConfig(**COMMON | settings)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference.to(dtype), ours.to(dtype)


def images(config: Any, dtype: torch.dtype, batch: int = 3) -> Tensor:
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config.num_channels, *size, generator=generator).to(dtype)


def close(theirs: Any, ours: Any, dtype: torch.dtype) -> None:
    torch.testing.assert_close(ours, theirs, **CLOSE[dtype])


def masked(model: Any, batch: int) -> Tensor:
    patches = model.vit.embeddings.patch_embeddings.num_patches
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(2)) < 0.4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_agree(theirs: ModuleType, kind: str, name: str, dtype: torch.dtype) -> None:
    reference, ours = pair(theirs, kind, CONFIGS[name], dtype)
    x = images(reference.config, dtype)
    with torch.no_grad():
        got = ours(x, output_attentions=True, output_hidden_states=True)
        expected = reference(x, output_hidden_states=True)
        for field in expected:
            close(expected[field], got[field], dtype)
        # Only their eager kernel has attention weights to give.
        reference.set_attn_implementation("eager")
        expected = reference(x, output_attentions=True, output_hidden_states=True)
    assert list(got.keys()) == list(expected.keys())
    close(expected.attentions, got.attentions, dtype)
    assert len(got.hidden_states) == reference.config.num_hidden_layers + 1
    tokens = got["hidden_states"][-1]
    final = got[0] if kind == "ViTModel" else None
    assert final is None or not torch.equal(tokens, final), "the last hidden state is the one before the final norm"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "problem", ["regression", "single_label_classification", "multi_label_classification", "pixels"]
)
def test_losses_and_gradients_agree(theirs: ModuleType, problem: str, name: str, dtype: torch.dtype) -> None:
    kind = "ViTForMaskedImageModeling" if problem == "pixels" else "ViTForImageClassification"
    reference, ours = pair(theirs, kind, CONFIGS[name], dtype)
    x = images(reference.config, dtype)
    targets: dict[str, Any] = {
        "regression": {"labels": torch.randn(3, 5).to(dtype)},
        "single_label_classification": {"labels": torch.tensor([4, -100, 2])},
        "multi_label_classification": {"labels": (torch.rand(3, 5) < 0.5).to(dtype)},
    }
    if problem == "pixels":
        given = {"bool_masked_pos": masked(reference, 3)}
    else:
        given = targets[problem]
        reference.config.problem_type = ours.config.problem_type = problem
    expected, got = reference(x, **given).loss, ours(x, **given).loss
    close(expected, got, dtype)
    expected.backward()
    got.backward()
    gradients = dict(reference.named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        close(gradients[parameter_name].grad, parameter.grad, dtype)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0.5, 1.5, 2.0]), torch.tensor([[0.5], [1.5], [2.0]])], ids=["b", "b1"]
)
def test_one_label_regresses_by_itself(theirs: ModuleType, labels: Tensor) -> None:
    reference, ours = pair(theirs, "ViTForImageClassification", {"num_labels": 1})
    x = images(reference.config, torch.float32)
    close(reference(x, labels=labels).loss, ours(x, labels=labels).loss, torch.float32)
    assert ours.config.problem_type == "regression"


def test_problem_types_are_inferred_and_kept_and_items_in_the_batch_count(theirs: ModuleType) -> None:
    x = images(ViTConfig(**COMMON), torch.float32)
    for labels, problem in [
        (torch.tensor([0, 1, 2]), "single_label_classification"),
        (torch.rand(3, 5), "multi_label_classification"),
    ]:
        reference, ours = pair(theirs, "ViTForImageClassification", {})
        close(reference(x, labels=labels).loss, ours(x, labels=labels).loss, torch.float32)
        assert ours.config.problem_type == reference.config.problem_type == problem
    reference, ours = pair(theirs, "ViTForImageClassification", {})
    for items in (7, torch.tensor(7)):
        whole = ours(x, labels=torch.tensor([0, 1, 2]), num_items_in_batch=items).loss
        close(reference(x, labels=torch.tensor([0, 1, 2]), num_items_in_batch=items).loss, whole, torch.float32)


@pytest.mark.parametrize("size", [(48, 48), (32, 32), (24, 56), (37, 45)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_interpolated_positions_agree(theirs: ModuleType, size: tuple[int, int], dtype: torch.dtype) -> None:
    reference, ours = pair(theirs, "ViTForImageClassification", {}, dtype)
    x = torch.randn(2, 3, *size).to(dtype)
    with torch.no_grad():
        expected = reference(x, interpolate_pos_encoding=True).logits
        close(expected, ours(x, interpolate_pos_encoding=True).logits, dtype)


def test_attention_masks_agree(theirs: ModuleType) -> None:
    reference, ours = pair(theirs, "ViTModel", {})
    x = images(reference.config, torch.float32)
    keep = torch.rand(3, 17, generator=torch.Generator().manual_seed(3)) < 0.6
    keep[:, 0] = True
    reference.set_attn_implementation("eager")
    with torch.no_grad():
        expected = reference(x, attention_mask=keep, output_attentions=True)
        for mask in (keep, keep.long(), keep[:, None, None, :]):
            got = ours(x, attention_mask=mask, output_attentions=True)
            close(expected.last_hidden_state, got.last_hidden_state, torch.float32)
            close(expected.attentions, got.attentions, torch.float32)
    assert got.attentions[0][~keep[:, None, None, :].expand_as(got.attentions[0])].abs().max() == 0
    hidden = ours(x, attention_mask=torch.zeros(3, 17)).last_hidden_state
    assert hidden.isfinite().all(), "a picture with every token hidden is no NaN"


def test_a_float32_image_fits_a_bfloat16_model_and_eager_is_the_same_model(theirs: ModuleType) -> None:
    reference, ours = pair(theirs, "ViTForImageClassification", {}, torch.bfloat16)
    x = images(reference.config, torch.float32)
    with torch.no_grad():
        close(reference(x).logits, ours(x).logits, torch.bfloat16)
    reference, ours = pair(theirs, "ViTForImageClassification", {})
    with torch.no_grad():
        ours.set_attn_implementation("eager")
        got = ours(x, output_attentions=True)
        close(reference(x).logits, got.logits, torch.float32)
        assert len(got.attentions) == 3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dropout_reaches_the_same_places(theirs: ModuleType, implementation: str) -> None:
    """Drawn from the same seed it is theirs number by number; the fused kernel's own draws are torch's."""
    settings = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2 if implementation == "eager" else 0.0}
    reference, ours = pair(theirs, "ViTForImageClassification", settings)
    ours.set_attn_implementation(implementation)
    reference.set_attn_implementation(implementation)
    x = images(reference.config, torch.float32)
    results = []
    for model in (reference.train(), ours.train()):
        torch.manual_seed(5)
        results.append(model(x, output_attentions=implementation == "eager"))
    close(results[0].logits, results[1].logits, torch.float32)
    if implementation == "eager":
        close(results[0].attentions, results[1].attentions, torch.float32)


def test_fresh_weights_have_the_same_distribution(theirs: ModuleType) -> None:
    torch.manual_seed(0)
    settings = COMMON | {"hidden_size": 128, "num_hidden_layers": 2, "initializer_range": 0.05}
    for kind in KINDS:
        reference = dict(getattr(theirs, kind)(theirs.ViTConfig(**settings)).named_parameters())
        for name, parameter in OURS[kind](ViTConfig(**settings)).named_parameters():
            expected = reference[name]
            assert parameter.shape == expected.shape
            if parameter.numel() > 1000:
                torch.testing.assert_close(parameter.std(), expected.std(), rtol=0.15, atol=0)
            elif expected.std() == 0:
                torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize("grid", [(32, 64), (64, 32)], ids=str)
def test_pictures_and_configs_need_not_be_square(theirs: ModuleType, grid: tuple[int, int]) -> None:
    """Theirs cannot interpolate or paint here; their parts, called one by one on the right grid, are the reference."""
    reference, ours = pair(theirs, "ViTForMaskedImageModeling", {"image_size": grid})
    x, mask = images(ours.config, torch.float32, 2), masked(ours, 2)
    rows, columns = grid[0] // 8, grid[1] // 8
    with torch.no_grad():
        hidden = reference.vit(x, bool_masked_pos=mask).last_hidden_state[:, 1:]
        painted = reference.decoder(hidden.transpose(1, 2).reshape(2, -1, rows, columns))
        got = ours(x, bool_masked_pos=mask)
        close(painted, got.reconstruction, torch.float32)
        pixels = mask.reshape(2, 1, rows, columns).float()
        pixels = nn.functional.interpolate(pixels, scale_factor=8, mode="nearest")
        close(((x - painted).abs() * pixels).sum() / (pixels.sum() + 1e-5) / 3, got.loss, torch.float32)

        table = ours.vit.embeddings.position_embeddings
        native = table[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        new = nn.functional.interpolate(native, size=(6, 5), mode="bicubic", align_corners=False)
        new = torch.cat([table[:, :1], new.flatten(2).transpose(1, 2)], dim=1)
        larger = torch.randn(2, 3, 48, 40)
        tokens = reference.vit.embeddings.patch_embeddings(larger)
        tokens = torch.cat([reference.vit.embeddings.cls_token.expand(2, -1, -1), tokens], dim=1) + new
        got = ours.vit.embeddings(larger, interpolate_pos_encoding=True)
        close(tokens, got, torch.float32)
        assert ours(larger, torch.rand(2, 30) < 0.5, interpolate_pos_encoding=True).loss > 0


def test_pairs_of_numbers_do_for_patches_and_strides(theirs: ModuleType) -> None:
    _, ours = pair(theirs, "ViTForMaskedImageModeling", {})
    doubled = ViTForMaskedImageModeling(ViTConfig(**COMMON | {"patch_size": [8, 8], "encoder_stride": (8, 8)})).eval()
    doubled.load_state_dict(ours.state_dict())
    x, mask = images(ours.config, torch.float32), masked(ours, 3)
    assert torch.equal(doubled(x, mask).loss, ours(x, mask).loss)
    oblong = ViTForMaskedImageModeling(ViTConfig(**COMMON | {"patch_size": (8, 16), "encoder_stride": (8, 16)}))
    output = oblong(x, torch.rand(3, 8) < 0.5)
    assert output.reconstruction.shape == x.shape
    assert output.loss > 0
    assert oblong(torch.randn(1, 3, 40, 64), interpolate_pos_encoding=True).reconstruction.shape == (1, 3, 40, 64)


ERRORS = {
    "channels": ("ViTModel", {}, {"pixel_values": torch.zeros(1, 1, 32, 32)}),
    "size": ("ViTModel", {}, {"pixel_values": torch.zeros(1, 3, 40, 32)}),
    "stride": (
        "ViTForMaskedImageModeling",
        {"encoder_stride": 4},
        {"pixel_values": torch.zeros(1, 3, 32, 32), "bool_masked_pos": torch.zeros(1, 16, dtype=torch.bool)},
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_the_same_words(theirs: ModuleType, case: str) -> None:
    kind, settings, given = ERRORS[case]
    reference, ours = pair(theirs, kind, settings)
    with pytest.raises(ValueError) as expected:  # noqa: PT011 - the whole text is compared below
        reference(**given)
    with pytest.raises(ValueError) as got:  # noqa: PT011
        ours(**given)
    assert str(got.value) == str(expected.value)


def test_errors_of_version_4_and_our_own() -> None:
    model = ViTModel(ViTConfig(**COMMON))
    with pytest.raises(ValueError, match=r"^You have to specify pixel_values$"):
        model()
    with pytest.raises(
        ValueError, match=r"^The hidden size 15 is not a multiple of the number of attention heads 2\.$"
    ):
        ViTModel(ViTConfig(**COMMON | {"hidden_size": 15}))
    with pytest.raises(ValueError, match=r"use_mask_token=True"):
        model(torch.zeros(1, 3, 32, 32), bool_masked_pos=torch.ones(1, 16))
    with pytest.raises(ValueError, match=r"unknown activation 'gellu'; there is elu, gelu"):
        ViTModel(ViTConfig(**COMMON | {"hidden_act": "gellu"}))
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'head_msk'"):
        model(torch.zeros(1, 3, 32, 32), head_msk=None)


def test_every_model_is_reached() -> None:
    assert set(OURS) == {kind.__name__ for kind in ViTPreTrainedModel.__subclasses__()}
