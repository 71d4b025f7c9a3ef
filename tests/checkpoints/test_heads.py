"""Linear heads in separate files, compared with heads on timm's features of several blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from tiny_vits import fill, images
from torch import Tensor, nn

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError, heads
from vitkit.cli import main
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.inference import engine
from vitkit.inference.runtimes._exported import ExportedFeatures
from vitkit.models import beit, vit

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0}
SMALL_CONFIG: dict[str, Any] = {
    "image_size": (32, 32), "patch_size": (8, 8), "width": 32, "depth": 4, "num_heads": 2, "mlp_width": 64
}  # fmt: skip
SIZE = (32, 32)
WIDTH = 32


@pytest.fixture(scope="module")
def dino() -> nn.Module:
    timm = oracle("timm")
    return fill(timm.create_model("vit_small_patch16_224", **SMALL))


@pytest.fixture(scope="module")
def registered() -> nn.Module:
    timm = oracle("timm")
    return fill(timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL))


def backbone(model: nn.Module, folder: Path) -> Path:
    """Saves the weights as DINO's authors do."""
    path = folder / "backbone.pth"
    torch.save(model.state_dict(), path)
    return path


def vectors(model: Any, batch: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns timm's normalized class tokens of the last blocks (blocks, b, d) and the mean patch token of the last."""
    _, found = model.forward_intermediates(batch, indices=count, norm=True, return_prefix_tokens=True)
    tokens = torch.stack([special[:, 0] for _, special in found])
    return tokens, found[-1][0].flatten(2).mean(dim=2)


def linear(width: int, classes: int = 7) -> nn.Linear:
    return fill(nn.Linear(width, classes))


def dino_file(layer: nn.Linear) -> dict[str, Any]:
    """Returns what DINO's `eval_linear.py` saves: weights and optimizer momentum."""
    state = {f"module.linear.{name}": value for name, value in layer.state_dict().items()}
    momentum = {"state": {0: {"momentum_buffer": layer.weight.detach()}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 100, "state_dict": state, "optimizer": momentum, "best_acc": 77.0}


def test_dino_small_head_reads_four_blocks(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(4 * WIDTH)
    torch.save(dino_file(layer), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(dino, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert (loaded.model.config.pool, loaded.model.config.pool_blocks, loaded.model.pool_width) == ("token", 4, 128)
    assert loaded.origin.notes[-1] == "the head of head.pth (7 classes) reads the class tokens of the last 4 blocks"
    assert len(loaded.labels) == 7
    batch = images(SIZE)
    with torch.no_grad():
        tokens, _ = vectors(dino, batch, 4)
        expected = layer(torch.cat(list(tokens), dim=1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4
    # Only vitkit's own layout supports this config; the round trip is exact.
    assert checkpoints.save(loaded, tmp_path / "ours") == "vitkit"
    again = checkpoints.load(tmp_path / "ours")
    assert again.model.config == loaded.model.config
    with torch.no_grad():
        assert torch.equal(again.model(batch), loaded.model(batch))
    for target, suffix in {"timm": "", "huggingface": "", "npz": ".npz", "torchvision": ".pth"}.items():
        with pytest.raises(CheckpointError, match="cannot store pool_blocks=4"):
            checkpoints.save(loaded, tmp_path / f"{target}{suffix}", to=target)


def test_dino_base_head_is_interleaved(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(2 * WIDTH)
    torch.save(dino_file(layer), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(dino, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert "the class token and the mean patch token, interleaved in the file" in loaded.origin.notes[-1]
    batch = images(SIZE)
    with torch.no_grad():
        tokens, mean = vectors(dino, batch, 1)
        expected = layer(torch.stack([tokens[0], mean], dim=2).flatten(1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("count", "patches"), [(1, True), (4, True), (1, False)])
def test_dinov2_heads(count: int, patches: bool, registered: nn.Module, tmp_path: Path) -> None:
    layer = linear((count + patches) * WIDTH)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(registered, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert loaded.model.config.num_registers == 4
    batch = images(SIZE)
    with torch.no_grad():
        tokens, mean = vectors(registered, batch, count)
        expected = layer(torch.cat([*tokens, *([mean] if patches else [])], dim=1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4


def test_dinov2_is_evaluated_on_a_224_crop_of_256_pixels(registered: nn.Module, tmp_path: Path) -> None:
    """At the size of its position table it is evaluated without a margin, as in timm."""
    path = backbone(registered, tmp_path).rename(tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    smaller, own = (checkpoints.load(path, image_size=size, config={"num_heads": 2}).processor for size in (16, 32))
    assert (smaller.size, smaller.resize_to) == ((16, 16), 18)
    assert (own.size, own.resize_to) == ((32, 32), 32)


def test_overrides_set_the_input_of_a_head(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(3 * WIDTH)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    path = backbone(dino, tmp_path)
    with pytest.raises(CheckpointError, match=r"head\.pth has input width 96; expected one of 32, 64, 128"):
        checkpoints.load(path, head=tmp_path / "head.pth", config={"num_heads": 2})
    overrides = {"num_heads": 2, "pool": "token", "pool_blocks": 3}
    loaded = checkpoints.load(path, head=tmp_path / "head.pth", config=overrides)
    batch = images(SIZE)
    with torch.no_grad():
        tokens, _ = vectors(dino, batch, 3)
        assert (loaded.model(batch) - layer(torch.cat(list(tokens), dim=1))).abs().max() < 1e-4
    with pytest.raises(
        CheckpointError, match=r"has input width 96, but .* \(the class tokens of the last 2 blocks\) has width 64"
    ):
        checkpoints.load(path, head=tmp_path / "head.pth", config=overrides | {"pool_blocks": 2})


def test_convert_attaches_a_head(dino: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(dino_file(linear(4 * WIDTH)), tmp_path / "head.pth")
    arguments = [str(backbone(dino, tmp_path)), str(tmp_path / "full"), "--to", "vitkit", "--set", "num_heads=2"]
    assert main(["convert", *arguments, "--head", str(tmp_path / "head.pth")]) == 0
    full = checkpoints.load(tmp_path / "full")
    assert full.model.config.pool_blocks == 4
    capsys.readouterr()
    arguments[1] = str(tmp_path / "other")
    assert main(["convert", *arguments, "--head", str(tmp_path / "no.pth")]) == 1
    assert f"the file with the head does not exist: {tmp_path / 'no.pth'}" in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, 2, 4, 5])
def test_head_file_replaces_an_existing_head(times: int, tmp_path: Path) -> None:
    """The input of the old head does not matter, and the result can be saved and loaded."""
    model = fill(models.build(vit.Config(**SMALL_CONFIG, pool_blocks=3, num_classes=9)))
    config = models.to_dict(model.config)
    torch.save(linear(times * WIDTH).state_dict(), tmp_path / "head.pth")
    full = Checkpoint(model=model, processor=Processor.squash(32), labels=default_labels(9))
    checkpoints.save(full, tmp_path / "full")
    loaded = checkpoints.load(tmp_path / "full", head=tmp_path / "head.pth")
    assert loaded.origin.notes[-1].endswith(" and replaces a head with 9 classes")
    assert len(loaded.labels) == loaded.model.config.num_classes == 7
    batch = images(SIZE)
    with torch.no_grad():
        logits = loaded.model(batch)
        assert checkpoints.save(loaded, tmp_path / "again", to="vitkit") == "vitkit"
        assert torch.equal(checkpoints.load(tmp_path / "again").model(batch), logits)
    assert config == models.to_dict(model.config)


def test_pool_of_the_model_is_preferred_to_that_of_published_heads(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"pool": "gap", "class_token": False}, 1),
        ({"pool": "token", "pool_blocks": 2}, 2),
        ({"pool": "token+gap", "pool_blocks": 3}, 4),
    ]
    for fields, times in cases:
        torch.save(linear(times * WIDTH).state_dict(), tmp_path / "head.pth")
        model = models.build(vit.Config(**SMALL_CONFIG, **fields))
        heads.attach(model, tmp_path / "head.pth", {})
        assert {name: getattr(model.config, name) for name in fields} == fields
    heads.attach(model, tmp_path / "head.pth", {"pool": "token", "pool_blocks": "4"})
    assert (model.config.pool, model.config.pool_blocks) == ("token", 4)


def test_only_dino_files_are_interleaved(tmp_path: Path) -> None:
    layer = linear(2 * WIDTH)
    torch.save({f"linear.{name}": value for name, value in layer.state_dict().items()}, tmp_path / "head.pth")
    model = models.build(vit.Config(**SMALL_CONFIG))
    heads.attach(model, tmp_path / "head.pth", {})
    assert torch.equal(model.head.weight, layer.weight)


def test_head_has_the_dtype_of_the_model(tmp_path: Path) -> None:
    torch.save(linear(WIDTH).bfloat16().state_dict(), tmp_path / "head.pth")
    model = models.build(vit.Config(**SMALL_CONFIG))
    heads.attach(model, tmp_path / "head.pth", {}, None)
    assert model.head.weight.dtype == torch.float32
    for weight in (torch.ones(7, 32, dtype=torch.int64), torch.ones(0, 32)):
        torch.save({"weight": weight, "bias": torch.ones(weight.shape[0])}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=r"other\.pth is not a linear head"):
            heads.attach(model, tmp_path / "other.pth", {})


def test_invalid_heads_are_rejected(dino: nn.Module, tmp_path: Path) -> None:
    path, config = backbone(dino, tmp_path), {"num_heads": 2}
    with pytest.raises(CheckpointError, match=r"backbone\.pth is not a linear head .*; it has cls_token, pos_embed"):
        checkpoints.load(path, head=path, config=config)
    torch.save({"weight": torch.ones(7, 32), "bias": torch.ones(6)}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"broken\.pth is not a linear head"):
        checkpoints.load(path, head=tmp_path / "broken.pth", config=config)
    torch.save({"weight": torch.ones(7, 128), "bias": torch.ones(7)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="both set the head"):
        checkpoints.load(path, head=tmp_path / "head.pth", num_classes=3)
    shallow = models.build(vit.TINY)
    with pytest.raises(CheckpointError, match="pool_blocks is 4; it must be between 1 and the depth, 2"):
        heads.attach(shallow, tmp_path / "head.pth", {})
    assert shallow.config == vit.TINY
    with pytest.raises(CheckpointError, match="not with beit"):
        heads.attach(models.build(beit.TINY), tmp_path / "head.pth", {})
    averaged = models.build(vit.Config(**SMALL_CONFIG, class_token=False, pool="gap", norm="pooled"))
    with pytest.raises(CheckpointError, match="needs tokens after the final norm"):
        heads.attach(averaged, tmp_path / "head.pth", {})


def test_invalid_pool_blocks() -> None:
    for blocks in (0, 5):
        with pytest.raises(ValueError, match=f"pool_blocks is {blocks}; it must be between 1 and the depth, 4"):
            vit.Config(**SMALL_CONFIG, pool_blocks=blocks)
    for more in ({"pool": "gap"}, {"pool": "map"}, {"norm": "pooled"}):
        with pytest.raises(ValueError, match=r"needs pool=.token. or .token.gap. and norm=.tokens."):
            vit.Config(**SMALL_CONFIG, pool_blocks=2, **more)


@pytest.mark.parametrize("pool", ["token", "token+gap"])
def test_engine_supports_several_blocks(pool: Any) -> None:
    model = fill(models.build(vit.Config(**SMALL_CONFIG, pool=pool, pool_blocks=3, num_classes=7)))
    batch = torch.randn(2 * engine.CHUNK + 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = engine.accelerate(model, precision="bfloat16")
    with torch.inference_mode():
        fast, exact = made.model(batch), model(batch)
        features = made.model.features(batch)
    assert features.earlier is not None
    assert features.earlier.shape == (batch.shape[0], 2, 32)
    # With pool="token" the last block computes the class token only.
    assert features.tokens.shape[1] == (1 if pool == "token" else 17)
    assert (fast - exact).std() < 0.03 * exact.std()


def test_accelerate_does_not_use_random_numbers() -> None:
    model = models.build(vit.Config(**SMALL_CONFIG, pool_blocks=3, num_classes=7, stochastic_depth=0.5)).train()
    before = torch.get_rng_state()
    engine.accelerate(model, precision="bfloat16")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_batch_is_split_and_joined_with_all_outputs() -> None:
    parts = [
        ExportedFeatures(
            tokens=torch.rand(n, 5, 4), grid=(2, 2), num_special=1, earlier=torch.rand(n, 1, 4), logits=torch.rand(n, 3)
        )
        for n in (2, 3)
    ]
    joined = ExportedFeatures.join(parts)
    assert isinstance(joined, ExportedFeatures)
    assert (joined.grid, joined.num_special, joined.representation) == ((2, 2), 1, None)
    last = joined.each(lambda tensor: tensor[2:])
    for name in ("tokens", "earlier", "logits"):
        assert torch.equal(getattr(last, name), getattr(parts[1], name))


def test_flax_model_rejects_several_blocks() -> None:
    pytest.importorskip("flax", reason="needs the extra: pip install 'vitkit[jax]'")
    from vitkit.jax.vit import check

    with pytest.raises(ValueError, match="the Flax ViT does not support pool_blocks=3"):
        check(vit.Config(**SMALL_CONFIG, pool_blocks=3))
