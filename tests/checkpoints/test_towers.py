"""Image towers of CLIP and SigLIP, in the layouts of transformers, OpenAI, open_clip and timm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from PIL import Image
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.inference import Predictor

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 16, "bos_token_id": 98, "eos_token_id": 99,
}  # fmt: skip
ARCHITECTURES = (
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "CLIPModel",
    "SiglipVisionModel",
    "SiglipModel",
)


def noisy(model: nn.Module) -> Any:
    """Adds noise to every parameter, so that none is zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tower(name: str) -> Any:
    theirs = oracle("transformers")
    family = "CLIP" if name.startswith("CLIP") else "Siglip"
    projection = {"projection_dim": 16} if family == "CLIP" else {}
    if "Vision" in name:
        return noisy(getattr(theirs, name)(getattr(theirs, f"{family}VisionConfig")(**projection, **SIZES)))
    config = getattr(theirs, f"{family}Config")(text_config=TEXT, vision_config=SIZES, **projection)
    return noisy(getattr(theirs, name)(config))


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Returns the features of the reference, resized to the images."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
        return found if isinstance(found, Tensor) else found.pooler_output
    found = model(pixels, interpolate_pos_encoding=True)
    return getattr(found, "image_embeds", None) if hasattr(found, "image_embeds") else found.pooler_output


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_towers_equal_transformers_in_both_directions(name: str, tmp_path: Path) -> None:
    theirs = tower(name)
    theirs.save_pretrained(tmp_path / "a")
    loaded = checkpoints.load(tmp_path / "a")
    checkpoints.save(loaded, tmp_path / "b", to="huggingface")
    again = checkpoints.load(tmp_path / "b")
    assert again.model.config == loaded.model.config
    assert again.processor == loaded.processor
    library: Any = oracle("transformers")
    written = (
        "CLIPVisionModelWithProjection" if name == "CLIPModel" else name.replace("SiglipModel", "SiglipVisionModel")
    )
    back = getattr(library, written).from_pretrained(tmp_path / "b").eval()
    for size in ((32, 32), (48, 40)):
        pixels = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = image_features(theirs, pixels)
            torch.testing.assert_close(loaded.model(pixels), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(image_features(back, pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_pixels_equal_those_of_the_image_processor(family: str, tmp_path: Path) -> None:
    theirs: Any = oracle("transformers")
    sides = {"height": 32, "width": 32}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": sides} if family == "CLIP" else {"size": sides}
    processor = getattr(theirs, f"{family}ImageProcessorPil")(**sizes)
    tower(f"{family}VisionModel").save_pretrained(tmp_path / "a")
    guessed = checkpoints.load(tmp_path / "a").processor  # without preprocessor_config.json
    processor.save_pretrained(tmp_path / "a")
    stored = checkpoints.load(tmp_path / "a").processor
    image = Image.effect_noise((57, 43), 90).convert("RGB")
    expected = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(torch.as_tensor(stored([image])), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.as_tensor(guessed([image])), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_fast_copies_of_quick_gelu(precision: str, tmp_path: Path) -> None:
    tower("CLIPVisionModelWithProjection").save_pretrained(tmp_path / "a")
    model = checkpoints.load(tmp_path / "a").model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixels)
    found = Predictor(model, checkpoints.load(tmp_path / "a").processor, precision=precision).model(pixels)
    assert (found.float() - expected).norm() < 0.03 * expected.norm()


def open_clip_state(quick_gelu: bool) -> tuple[Any, dict[str, Tensor]]:
    theirs = oracle("open_clip")
    vision = theirs.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=32)
    text = theirs.CLIPTextCfg(context_length=12, vocab_size=50, width=64, heads=2, layers=1)
    model = noisy(theirs.CLIP(16, vision, text, quick_gelu=quick_gelu))
    return model, model.state_dict()


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_state_dicts_of_open_clip(quick_gelu: bool, tmp_path: Path) -> None:
    theirs, state = open_clip_state(quick_gelu)
    path = tmp_path / ("ViT-B-32.pt" if quick_gelu else "laion.pt")
    torch.save(state, path)
    loaded = checkpoints.load(path, config={} if quick_gelu else {"activation": "gelu"})
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(pixels), theirs.encode_image(pixels), atol=1e-5, rtol=1e-5)


def openai_names() -> dict[str, Tensor]:
    """Returns an image tower with OpenAI's names, random weights, and a text tower next to it."""
    width, layers = 64, 1
    shapes = {
        "visual.class_embedding": (width,), "visual.positional_embedding": (17, width), "visual.proj": (width, 16),
        "visual.conv1.weight": (width, 3, 8, 8), "token_embedding.weight": (50, 64), "text_projection": (64, 16),
        "logit_scale": (), "input_resolution": (), "transformer.resblocks.0.ln_1.weight": (64,),
    }  # fmt: skip
    for index in range(layers):
        block = f"visual.transformer.resblocks.{index}."
        rows = {"attn.in_proj_": 3 * width, "attn.out_proj.": width, "mlp.c_fc.": 4 * width, "mlp.c_proj.": width}
        for name, size in rows.items():
            shapes[f"{block}{name}weight"] = (size, 4 * width if name == "mlp.c_proj." else width)
            shapes[f"{block}{name}bias"] = (size,)
        shapes |= {f"{block}{norm}.{leaf}": (width,) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
    shapes |= {f"visual.{norm}.{leaf}": (width,) for norm in ("ln_pre", "ln_post") for leaf in ("weight", "bias")}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_the_activation_is_never_guessed(tmp_path: Path) -> None:
    torch.save(openai_names(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"does not say whether the activation is GELU or QuickGELU.*--set act"):
        checkpoints.load(tmp_path / "weights.pt")
    config = checkpoints.load(tmp_path / "weights.pt", config={"activation": "quick_gelu"}).model.config
    torch.save(openai_names(), tmp_path / "ViT-B-32.pt")
    assert checkpoints.load(tmp_path / "ViT-B-32.pt").model.config == config
    assert (config.num_classes, config.pre_norm, config.patch_bias, config.head_bias) == (16, True, False, False)
    with pytest.raises(ValueError, match="unknown format 'open_clip'"):  # the files also have a text tower
        checkpoints.save(checkpoints.load(tmp_path / "ViT-B-32.pt"), tmp_path / "x.pt", to="open_clip")


TIMM_NAMES = (
    "vit_base_patch32_clip_224.openai",
    "vit_base_patch32_clip_quickgelu_224.openai",
    "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m",
    "vit_base_patch16_radio_v3",
    "vit_intern300m_patch14_448",
)


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_folders_of_timm(name: str, tmp_path: Path) -> None:
    timm = oracle("timm")
    arguments = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 5}
    theirs = noisy(timm.create_model(name, **arguments))
    timm.models.save_for_hf(theirs, tmp_path / "a", model_args=arguments)
    loaded = checkpoints.load(tmp_path / "a")
    checkpoints.save(loaded, tmp_path / "b", to="timm")
    back = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(pixels), theirs(pixels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(back(pixels), theirs(pixels), atol=1e-5, rtol=1e-5)
