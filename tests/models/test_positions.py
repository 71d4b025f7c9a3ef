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
from vitkit.explain.attention import attention_maps
from vitkit.explain.positions import position_similarity
from vitkit.models.vit import Config, ViT

TINY = Config(image_size=(24, 32), patch_size=(8, 8), width=24, depth=3, num_heads=3, mlp_width=40, num_classes=5)
# Rows and columns of Table 8; sine-cosine beside them.
TABLE_8 = {
    "none": {"position": "none"},
    "1-D, stem": {},
    "1-D, layers": {"position_at": "layers"},
    "1-D, shared": {"position_at": "shared"},
    "2-D, stem": {"position": "factorised"},
    "2-D, layers": {"position": "factorised", "position_at": "layers"},
    "2-D, shared": {"position": "factorised", "position_at": "shared"},
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


def pictures(rows: int = 24, columns: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))


def place(state: dict[str, np.ndarray], config: Config, layer: int, token: int) -> np.ndarray | float:
    """What is added to a token for where it is, before that layer."""
    special, layer = config.num_special, layer if config.position_at == "layers" else 0
    row, column = divmod(token - special, config.grid[1])
    if config.position == "learned":
        if token >= special:
            return state["pos_embed"][layer, token - special + config.num_special_positions]
        return state["pos_embed"][layer, token] if token < config.num_special_positions else 0.0
    if token < special:
        return 0.0
    if config.position == "factorised":
        return np.concatenate([state["pos_embed_row"][layer, row], state["pos_embed_column"][layer, column]])
    if config.position == "sincos2d":
        omega = [10_000 ** (-k / (config.width // 4 - 1)) for k in range(config.width // 4)]
        parts = [(column, math.sin), (column, math.cos), (row, math.sin), (row, math.cos)]
        return np.array([function(where * each) for where, function in parts for each in omega])
    return 0.0


def reference(state: dict[str, np.ndarray], image: np.ndarray, config: Config) -> np.ndarray:
    """The final tokens of one image, token by token."""
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
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config.norm_eps)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    size, special, patches = config.width // config.num_heads, config.num_special, math.prod(config.grid)
    for layer in range(config.depth):
        if layer == 0 or config.position_at != "stem":
            x = np.stack([token + place(state, config, layer, index) for index, token in enumerate(x)])
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
def test_every_cell_of_table_8_is_its_loops(changes: dict) -> None:
    model, images = model_of(changes), pictures()
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    expected = np.stack([reference(state, image, model.config) for image in images.double().numpy()])
    np.testing.assert_allclose(model.features(images).tokens.detach().numpy(), expected, atol=2e-5)
    exact = model.double().features(images.double()).tokens.detach().numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-6 if "sincos2d" in str(changes) else 1e-11)


@pytest.mark.parametrize("changes", TABLE_8.values(), ids=TABLE_8)
def test_all_of_it_is_initialised_trained_and_explained(changes: dict) -> None:
    for init in ("jax", "truncated", "mae"):
        with torch.device("meta"):
            model = ViT(dataclasses.replace(TINY, **changes, init=init))
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.fill_(math.nan)
        model.init_weights()
        assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    # The mean of the patches: the class token's own query in the last layer has no place to compare with others.
    model = model_of(changes | {"pool": "gap"})
    model(pictures()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    found = attention_maps(model, pictures())
    torch.testing.assert_close(found.features.tokens, model.features(pictures()).tokens)
    assert model(pictures(40, 24)).isfinite().all()
    assert models.from_dict(models.to_dict(model.config)) == model.config


@pytest.mark.parametrize("changes", TABLE_8.values(), ids=TABLE_8)
def test_the_weights_explained_are_those_used(changes: dict) -> None:
    model = model_of(changes)
    seen: list[torch.Tensor] = []
    block = model.blocks[1]
    handle = block.attn.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    weights = attention_maps(model, pictures(), [1]).weights[0]
    handle.remove()
    _, _, v = block.attn.heads(seen[0])
    by_hand = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen[1], by_hand, atol=1e-5, rtol=1e-4)


def test_shared_tables_are_one_and_own_ones_differ() -> None:
    count = {name: sum(p.numel() for p in model_of(changes).parameters()) for name, changes in TABLE_8.items()}
    table = (1 + 12) * 24
    assert count["1-D, stem"] == count["none"] + table == count["1-D, shared"]
    assert count["1-D, layers"] == count["none"] + 3 * table
    assert count["2-D, stem"] == count["none"] + (3 + 4) * 12 == count["2-D, shared"]
    assert count["2-D, layers"] == count["none"] + 3 * (3 + 4) * 12
    assert count["relative"] == count["none"] + 3 * (2 * 12 - 1) * 8


def test_positions_are_what_the_stem_adds() -> None:
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
def test_one_position_is_all_that_a_bag_of_patches_lacks(changes: dict) -> None:
    """Without positions the order of the patches does not matter; with them it does."""
    images = pictures()
    swapped = torch.cat([images[..., 16:], images[..., :16]], dim=-1)
    bag = model_of({"position": "none"})
    torch.testing.assert_close(bag(images), bag(swapped), atol=1e-5, rtol=1e-4)
    for position in ("learned", "factorised", "relative"):
        model = model_of({"position": position} | (changes if position != "relative" else {}))
        assert (model(images) - model(swapped)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position": "factorised", "width": 25, "num_heads": 5}, "halves the width, but 25 is odd"),
        ({"position": "relative", "position_at": "layers"}, "position_at is 'layers'; with position='relative' it can"),
        ({"position": "none", "position_at": "shared"}, "with position='none' it can be 'stem'"),
        ({"position": "sincos2d", "position_at": "layers"}, "it can be 'stem' or 'shared'"),
    ],
)
def test_positions_that_cannot_be_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **changes)


OTHERS = [changes for changes in TABLE_8.values() if changes.get("position_at", changes.get("position")) not in
          (None, "none", "sincos2d")]  # fmt: skip


def held(model: ViT) -> Checkpoint:
    return Checkpoint(
        model=model,
        processor=Processor.squash(model.config.image_size),
        labels=default_labels(model.config.num_classes),
    )


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_our_layout_alone_holds_them_and_the_others_say_so(changes: dict, tmp_path) -> None:
    model = model_of(changes | {"image_size": (32, 32), "activation": "gelu_tanh"})
    assert checkpoints.save(held(model), tmp_path / "ours") == "vitkit"
    loaded = checkpoints.load(tmp_path / "ours").model
    assert loaded.config == model.config
    assert torch.equal(loaded(pictures(32, 32)), model(pictures(32, 32)))
    for name, suffix in (("huggingface", ""), ("timm", ""), ("npz", ".npz"), ("big_vision", ".npz")):
        with pytest.raises(CheckpointError, match=r"to='vitkit'|no position for|position for the class"):
            checkpoints.save(held(model), tmp_path / f"foreign{suffix}", to=name)


def test_a_config_of_before_still_loads() -> None:
    data = models.to_dict(TINY)
    del data["position_at"]
    assert models.from_dict(data) == TINY
