"""The position embeddings of the ViT paper's appendix D.4, against loops over patches in float64."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.explanation.attention import attention_maps
from vitkit.explanation.positions import position_similarity
from vitkit.models.vit import Config, ViT

TINY = Config(image_size=(24, 32), patch_size=(8, 8), width=24, depth=3, num_heads=3, mlp_width=40, num_classes=5)
# The configurations of Table 8, and further ones.
TABLE_8 = {
    "none": {"position": "none"},
    "1-D, stem": {},
    "1-D, layers": {"position_at": "layers"},
    "1-D, shared": {"position_at": "shared"},
    "2-D, stem": {"position": "factorized"},
    "2-D, layers": {"position": "factorized", "position_at": "layers"},
    "2-D, shared": {"position": "factorized", "position_at": "shared"},
    "relative": {"position": "relative"},
    "sine-cosine, shared": {"position": "sincos2d", "position_at": "shared"},
    "registers, layers": {"position_at": "layers", "num_registers": 2},
    "registers, relative": {"position": "relative", "num_registers": 2},
    "no class token": {"position_at": "layers", "class_token": False, "pool": "gap"},
}


def model_of(changes: dict) -> ViT:
    torch.manual_seed(0)
    model = models.build(dataclasses.replace(TINY, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(model, ViT)
    return model


def random_images(rows: int = 24, columns: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))


def added_position(state: dict[str, np.ndarray], config: Config, layer: int, token: int) -> np.ndarray | float:
    """Returns the position embedding that is added to a token before a layer."""
    special, layer = config.num_special, layer if config.position_at == "layers" else 0
    row, column = divmod(token - special, config.grid[1])
    if config.position == "learned":
        if token >= special:
            return state["pos_embed"][layer, token - special + config.num_special_positions]
        return state["pos_embed"][layer, token] if token < config.num_special_positions else 0.0
    if token < special:
        return 0.0
    if config.position == "factorized":
        return np.concatenate([state["pos_embed_row"][layer, row], state["pos_embed_column"][layer, column]])
    if config.position == "sincos2d":
        omega = [10_000 ** (-k / (config.width // 4 - 1)) for k in range(config.width // 4)]
        parts = [(column, math.sin), (column, math.cos), (row, math.sin), (row, math.cos)]
        return np.array([function(index * each) for index, function in parts for each in omega])
    return 0.0


def reference(state: dict[str, np.ndarray], image: np.ndarray, config: Config) -> np.ndarray:
    """Computes the final tokens of one image with loops."""
    side = config.patch_size[0]
    kernel, bias = state["patch_embed.proj.weight"].reshape(config.width, -1), state["patch_embed.proj.bias"]
    tokens = [state["cls_token"][0, 0]] if config.class_token else []
    tokens += list(state["reg_token"][0]) if config.num_registers else []
    for row in range(config.grid[0]):
        for column in range(config.grid[1]):
            patch = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            tokens.append(kernel @ patch.ravel() + bias)
    x = np.stack(tokens)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centered = x - x.mean(axis=-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + config.norm_eps)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    size, special, patches = config.width // config.num_heads, config.num_special, math.prod(config.grid)
    for layer in range(config.depth):
        if layer == 0 or config.position_at != "stem":
            x = np.stack([token + added_position(state, config, layer, index) for index, token in enumerate(x)])
        name = f"blocks.{layer}"
        qkv = dense(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        heads = []
        for head in range(config.num_heads):
            q, k, v = (qkv[:, part * config.width + head * size :][:, :size] for part in range(3))
            logits = np.zeros((len(q), len(q)))
            for i in range(len(q)):
                for j in range(len(q)):
                    key = k[j]
                    if config.position == "relative" and min(i, j) >= special:
                        key = key + state[f"{name}.attn.relative_positions"][i - j + patches - 1]
                    logits[i, j] = q[i] @ key / math.sqrt(size)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        x = x + dense(np.concatenate(heads, axis=1), f"{name}.attn.proj")
        hidden = dense(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + dense(hidden, f"{name}.mlp.fc2")
    return norm(x, "norm")


@pytest.mark.parametrize("changes", TABLE_8.values(), ids=TABLE_8)
def test_every_configuration_of_table_8_matches_loops(changes: dict) -> None:
    model, images = model_of(changes), random_images()
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    expected = np.stack([reference(state, image, model.config) for image in images.double().numpy()])
    np.testing.assert_allclose(model.features(images).tokens.detach().numpy(), expected, atol=2e-5)
    exact = model.double().features(images.double()).tokens.detach().numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-6 if "sincos2d" in str(changes) else 1e-11)


@pytest.mark.parametrize("changes", TABLE_8.values(), ids=TABLE_8)
def test_every_configuration_is_initialized_trained_and_explained(changes: dict) -> None:
    for init in ("jax", "truncated", "mae"):
        with torch.device("meta"):
            model = ViT(dataclasses.replace(TINY, **changes, init=init))
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.fill_(math.nan)
        model.init_weights()
        assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    # Pool "gap": with "token" the relative positions of the last layer get no gradient.
    model = model_of(changes | {"pool": "gap"})
    model(random_images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    maps = attention_maps(model, random_images())
    torch.testing.assert_close(maps.features.tokens, model.features(random_images()).tokens)
    assert model(random_images(40, 24)).isfinite().all()
    assert models.from_dict(models.to_dict(model.config)) == model.config


@pytest.mark.parametrize("changes", TABLE_8.values(), ids=TABLE_8)
def test_attention_maps_match_the_weights_of_the_forward_pass(changes: dict) -> None:
    model = model_of(changes)
    seen: list[torch.Tensor] = []
    block = model.blocks[1]
    handle = block.attn.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    weights = attention_maps(model, random_images(), [1]).weights[0]
    handle.remove()
    _, _, v = block.attn.heads(seen[0])
    expected = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen[1], expected, atol=1e-5, rtol=1e-4)


def test_parameter_counts_of_shared_tables_and_tables_per_layer() -> None:
    count = {name: sum(p.numel() for p in model_of(changes).parameters()) for name, changes in TABLE_8.items()}
    table = (1 + 12) * 24
    assert count["1-D, stem"] == count["none"] + table == count["1-D, shared"]
    assert count["1-D, layers"] == count["none"] + 3 * table
    assert count["2-D, stem"] == count["none"] + (3 + 4) * 12 == count["2-D, shared"]
    assert count["2-D, layers"] == count["none"] + 3 * (3 + 4) * 12
    assert count["relative"] == count["none"] + 3 * (2 * 12 - 1) * 8


def test_positions_returns_the_table_that_the_stem_adds() -> None:
    for name, changes in TABLE_8.items():
        model = model_of(changes)
        table = model.positions((3, 4))
        if "stem" in name:
            assert table is not None
            assert position_similarity(model).shape == (3, 4, 3, 4)
            continue
        assert table is None
        with pytest.raises(ValueError, match=r"adds no position embedding"):
            position_similarity(model)


@pytest.mark.parametrize("changes", [{}, {"position_at": "layers"}, {"position_at": "shared"}], ids=str)
def test_the_order_of_patches_matters_only_with_positions(changes: dict) -> None:
    """Swapping halves of the images changes the logits only of models with positions."""
    images = random_images()
    swapped = torch.cat([images[..., 16:], images[..., :16]], dim=-1)
    bag = model_of({"position": "none"})
    torch.testing.assert_close(bag(images), bag(swapped), atol=1e-5, rtol=1e-4)
    for position in ("learned", "factorized", "relative"):
        model = model_of({"position": position} | (changes if position != "relative" else {}))
        assert (model(images) - model(swapped)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "factorized", "width": 25, "num_heads": 5}, "needs an even width, not 25"),
        (
            {"position": "relative", "position_at": "layers"},
            "position_at is 'layers'; with position='relative' it must",
        ),
        ({"position": "none", "position_at": "shared"}, "with position='none' it must be 'stem'"),
        ({"position": "sincos2d", "position_at": "layers"}, "it must be 'stem' or 'shared'"),
    ],
)
def test_unsupported_positions_are_rejected(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


OTHERS = [changes for changes in TABLE_8.values() if changes.get("position_at", changes.get("position")) not in
          (None, "none", "sincos2d")]  # fmt: skip


def as_checkpoint(model: ViT) -> Checkpoint:
    return Checkpoint(
        model=model,
        processor=Processor.squash(model.config.image_size),
        labels=default_labels(model.config.num_classes),
    )


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_only_our_format_stores_them_and_other_formats_reject_them(changes: dict, tmp_path) -> None:
    model = model_of(changes | {"image_size": (32, 32), "activation": "gelu_tanh"})
    assert checkpoints.save(as_checkpoint(model), tmp_path / "ours") == "vitkit"
    loaded = checkpoints.load(tmp_path / "ours").model
    assert loaded.config == model.config
    assert torch.equal(loaded(random_images(32, 32)), model(random_images(32, 32)))
    for name, suffix in (("huggingface", ""), ("timm", ""), ("npz", ".npz"), ("big_vision", ".npz")):
        with pytest.raises(CheckpointError, match=r"to='vitkit'|no position embedding for"):
            checkpoints.save(as_checkpoint(model), tmp_path / f"other{suffix}", to=name)


def test_a_config_without_position_at_loads() -> None:
    data = models.to_dict(TINY)
    del data["position_at"]
    assert models.from_dict(data) == TINY
