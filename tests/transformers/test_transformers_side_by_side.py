"""All outputs of all models, in five configs, compared with transformers."""

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
    "gray": {"num_channels": 1, "qkv_bias": False, "hidden_act": "relu", "patch_size": 4, "encoder_stride": 4},
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
# Tolerances of each element.
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2}}
DTYPES = [torch.float32, torch.bfloat16]
MODELS = ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"]
OURS = {cls.__name__: cls for cls in (ViTModel, ViTForImageClassification, ViTForMaskedImageModeling)}


def pair(hf: ModuleType, kind: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Creates a model of transformers and ours with the same weights."""
    torch.manual_seed(0)
    reference = getattr(hf, kind)(hf.ViTConfig(**COMMON | settings)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            # Also changes biases and norms: zeros and ones would hide swapped parameters.
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = OURS[kind](ViTConfig(**COMMON | settings)).eval()
    ours.load_state_dict(reference.state_dict())
    ours.name_format = "v5"
    return reference.to(dtype), ours.to(dtype)


def images(config: Any, dtype: torch.dtype, batch: int = 3) -> Tensor:
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config.num_channels, *size, generator=generator).to(dtype)


def close(expected: Any, actual: Any, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual, expected, **CLOSE[dtype])


def masked(model: Any, batch: int) -> Tensor:
    patches = model.vit.embeddings.patch_embeddings.num_patches
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(2)) < 0.4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", MODELS)
def test_outputs_match(hf: ModuleType, kind: str, name: str, dtype: torch.dtype) -> None:
    reference, ours = pair(hf, kind, CONFIGS[name], dtype)
    x = images(reference.config, dtype)
    with torch.no_grad():
        got = ours(x, output_attentions=True, output_hidden_states=True)
        expected = reference(x, output_hidden_states=True)
        for field in expected:
            close(expected[field], got[field], dtype)
        # transformers returns attention weights only with the eager implementation.
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
def test_losses_and_gradients_match(hf: ModuleType, problem: str, name: str, dtype: torch.dtype) -> None:
    kind = "ViTForMaskedImageModeling" if problem == "pixels" else "ViTForImageClassification"
    reference, ours = pair(hf, kind, CONFIGS[name], dtype)
    x = images(reference.config, dtype)
    targets: dict[str, Any] = {
        "regression": {"labels": torch.randn(3, 5).to(dtype)},
        "single_label_classification": {"labels": torch.tensor([4, -100, 2])},
        "multi_label_classification": {"labels": (torch.rand(3, 5) < 0.5).to(dtype)},
    }
    if problem == "pixels":
        inputs = {"bool_masked_pos": masked(reference, 3)}
    else:
        inputs = targets[problem]
        reference.config.problem_type = ours.config.problem_type = problem
    expected, got = reference(x, **inputs).loss, ours(x, **inputs).loss
    close(expected, got, dtype)
    expected.backward()
    got.backward()
    gradients = dict(reference.named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        close(gradients[parameter_name].grad, parameter.grad, dtype)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0.5, 1.5, 2.0]), torch.tensor([[0.5], [1.5], [2.0]])], ids=["b", "b1"]
)
def test_one_label_means_regression(hf: ModuleType, labels: Tensor) -> None:
    reference, ours = pair(hf, "ViTForImageClassification", {"num_labels": 1})
    x = images(reference.config, torch.float32)
    close(reference(x, labels=labels).loss, ours(x, labels=labels).loss, torch.float32)
    assert ours.config.problem_type == "regression"


def test_problem_types_are_inferred_and_stored_and_num_items_in_batch_is_used(hf: ModuleType) -> None:
    x = images(ViTConfig(**COMMON), torch.float32)
    for labels, problem in [
        (torch.tensor([0, 1, 2]), "single_label_classification"),
        (torch.rand(3, 5), "multi_label_classification"),
    ]:
        reference, ours = pair(hf, "ViTForImageClassification", {})
        close(reference(x, labels=labels).loss, ours(x, labels=labels).loss, torch.float32)
        assert ours.config.problem_type == reference.config.problem_type == problem
    reference, ours = pair(hf, "ViTForImageClassification", {})
    for items in (7, torch.tensor(7)):
        loss = ours(x, labels=torch.tensor([0, 1, 2]), num_items_in_batch=items).loss
        close(reference(x, labels=torch.tensor([0, 1, 2]), num_items_in_batch=items).loss, loss, torch.float32)


@pytest.mark.parametrize("size", [(48, 48), (32, 32), (24, 56), (37, 45)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_interpolated_positions_match(hf: ModuleType, size: tuple[int, int], dtype: torch.dtype) -> None:
    reference, ours = pair(hf, "ViTForImageClassification", {}, dtype)
    x = torch.randn(2, 3, *size).to(dtype)
    with torch.no_grad():
        expected = reference(x, interpolate_pos_encoding=True).logits
        close(expected, ours(x, interpolate_pos_encoding=True).logits, dtype)


def test_attention_masks_match(hf: ModuleType) -> None:
    reference, ours = pair(hf, "ViTModel", {})
    x = images(reference.config, torch.float32)
    included = torch.rand(3, 17, generator=torch.Generator().manual_seed(3)) < 0.6
    included[:, 0] = True
    reference.set_attn_implementation("eager")
    with torch.no_grad():
        expected = reference(x, attention_mask=included, output_attentions=True)
        for mask in (included, included.long(), included[:, None, None, :]):
            got = ours(x, attention_mask=mask, output_attentions=True)
            close(expected.last_hidden_state, got.last_hidden_state, torch.float32)
            close(expected.attentions, got.attentions, torch.float32)
    assert got.attentions[0][~included[:, None, None, :].expand_as(got.attentions[0])].abs().max() == 0
    masked_out = ours(x, attention_mask=torch.zeros(3, 17)).last_hidden_state
    assert masked_out.isfinite().all(), "an image with all tokens masked does not give NaN"


def test_bfloat16_model_accepts_float32_images_and_eager_matches_sdpa(hf: ModuleType) -> None:
    reference, ours = pair(hf, "ViTForImageClassification", {}, torch.bfloat16)
    x = images(reference.config, torch.float32)
    with torch.no_grad():
        close(reference(x).logits, ours(x).logits, torch.bfloat16)
    reference, ours = pair(hf, "ViTForImageClassification", {})
    with torch.no_grad():
        ours.set_attn_implementation("eager")
        got = ours(x, output_attentions=True)
        close(reference(x).logits, got.logits, torch.float32)
        assert len(got.attentions) == 3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dropout_matches_for_the_same_seed(hf: ModuleType, implementation: str) -> None:
    """Attention dropout is compared with "eager" only: the fused kernel samples inside of torch."""
    settings = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2 if implementation == "eager" else 0.0}
    reference, ours = pair(hf, "ViTForImageClassification", settings)
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


def test_initial_weights_have_the_same_distribution(hf: ModuleType) -> None:
    torch.manual_seed(0)
    settings = COMMON | {"hidden_size": 128, "num_hidden_layers": 2, "initializer_range": 0.05}
    for kind in MODELS:
        reference = dict(getattr(hf, kind)(hf.ViTConfig(**settings)).named_parameters())
        ours = OURS[kind](ViTConfig(**settings))
        ours.name_format = "v5"
        for name, parameter in ours.named_parameters():
            expected = reference[name]
            assert parameter.shape == expected.shape
            if parameter.numel() > 1000:
                torch.testing.assert_close(parameter.std(), expected.std(), rtol=0.15, atol=0)
            elif expected.std() == 0:
                torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize("grid", [(32, 64), (64, 32)], ids=str)
def test_images_and_configs_need_not_be_square(hf: ModuleType, grid: tuple[int, int]) -> None:
    """transformers does not support this, so its modules are called one by one on the right grid."""
    reference, ours = pair(hf, "ViTForMaskedImageModeling", {"image_size": grid})
    x, mask = images(ours.config, torch.float32, 2), masked(ours, 2)
    rows, columns = grid[0] // 8, grid[1] // 8
    with torch.no_grad():
        hidden = reference.vit(x, bool_masked_pos=mask).last_hidden_state[:, 1:]
        reconstruction = reference.decoder(hidden.transpose(1, 2).reshape(2, -1, rows, columns))
        got = ours(x, bool_masked_pos=mask)
        close(reconstruction, got.reconstruction, torch.float32)
        pixels = mask.reshape(2, 1, rows, columns).float()
        pixels = nn.functional.interpolate(pixels, scale_factor=8, mode="nearest")
        close(((x - reconstruction).abs() * pixels).sum() / (pixels.sum() + 1e-5) / 3, got.loss, torch.float32)

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


def test_patches_and_strides_can_be_pairs(hf: ModuleType) -> None:
    _, ours = pair(hf, "ViTForMaskedImageModeling", {})
    from_pairs = ViTForMaskedImageModeling(
        ViTConfig(**COMMON | {"patch_size": [8, 8], "encoder_stride": (8, 8)})
    ).eval()
    from_pairs.load_state_dict(ours.state_dict())
    x, mask = images(ours.config, torch.float32), masked(ours, 3)
    assert torch.equal(from_pairs(x, mask).loss, ours(x, mask).loss)
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
def test_errors_have_the_same_messages(hf: ModuleType, case: str) -> None:
    kind, settings, inputs = ERRORS[case]
    reference, ours = pair(hf, kind, settings)
    with pytest.raises(ValueError) as expected:  # noqa: PT011 - the full text is compared below
        reference(**inputs)
    with pytest.raises(ValueError) as got:  # noqa: PT011
        ours(**inputs)
    assert str(got.value) == str(expected.value)


def test_other_errors() -> None:
    model = ViTModel(ViTConfig(**COMMON))
    with pytest.raises(ValueError, match=r"^You have to specify pixel_values$"):
        model()
    with pytest.raises(
        ValueError, match=r"^The hidden size 15 is not a multiple of the number of attention heads 2\.$"
    ):
        ViTModel(ViTConfig(**COMMON | {"hidden_size": 15}))
    with pytest.raises(ValueError, match=r"use_mask_token=True"):
        model(torch.zeros(1, 3, 32, 32), bool_masked_pos=torch.ones(1, 16))
    with pytest.raises(ValueError, match=r"unknown activation 'gellu'; expected one of elu, gelu"):
        ViTModel(ViTConfig(**COMMON | {"hidden_act": "gellu"}))
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'head_msk'"):
        model(torch.zeros(1, 3, 32, 32), head_msk=None)


def test_every_model_is_tested() -> None:
    # Other tests define subclasses as users do.
    own = [kind for kind in ViTPreTrainedModel.__subclasses__() if kind.__module__.startswith("vitkit.")]
    assert set(OURS) == {kind.__name__ for kind in own}


def test_float_class_labels_raise_in_both(hf: ModuleType) -> None:
    reference, ours = pair(hf, "ViTForImageClassification", {})
    reference.config.problem_type = ours.config.problem_type = "single_label_classification"
    x, labels = images(reference.config, torch.float32)[:2], torch.tensor([1.9, 0.2])
    with pytest.raises(RuntimeError):
        reference(x, labels=labels)
    with pytest.raises(RuntimeError, match=r"expected an integer dtype \(torch\.long\), got torch\.float32"):
        ours(x, labels=labels)
    assert ours(x, labels=labels.long()).loss.isfinite()
    assert torch.equal(ours(x, labels=labels.long().int()).loss, ours(x, labels=labels.long()).loss)
