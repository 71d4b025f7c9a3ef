"""Linear heads published apart from their backbones, against timm's features of several blocks; what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vits import fill, images
from torch import Tensor, nn

from vitkit import checkpoints, engine, models
from vitkit.checkpoints import Checkpoint, CheckpointError, heads
from vitkit.cli import main
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.models import beit, vit
from vitkit.predict.backends import Answered

timm = pytest.importorskip("timm")

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0}
SMALL_CONFIG: dict[str, Any] = {
    "image_size": (32, 32), "patch_size": (8, 8), "width": 32, "depth": 4, "num_heads": 2, "mlp_width": 64
}  # fmt: skip
SIZE = (32, 32)
WIDTH = 32


@pytest.fixture(scope="module")
def dino() -> nn.Module:
    return fill(timm.create_model("vit_small_patch16_224", **SMALL))


@pytest.fixture(scope="module")
def registered() -> nn.Module:
    return fill(timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL))


def backbone(model: nn.Module, folder: Path) -> Path:
    """The weights as DINO's authors save them."""
    path = folder / "backbone.pth"
    torch.save(model.state_dict(), path)
    return path


def vectors(model: Any, batch: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The normalised class tokens of the last blocks, (blocks, b, d), and the mean patch of the last, by timm."""
    _, found = model.forward_intermediates(batch, indices=count, norm=True, return_prefix_tokens=True)
    tokens = torch.stack([special[:, 0] for _, special in found])
    return tokens, found[-1][0].flatten(2).mean(dim=2)


def linear(width: int, classes: int = 7) -> nn.Linear:
    return fill(nn.Linear(width, classes))


def of_dino(layer: nn.Linear) -> dict[str, Any]:
    """As `eval_linear.py` of DINO saves it, momentum beside the weights."""
    state = {f"module.linear.{name}": value for name, value in layer.state_dict().items()}
    momentum = {"state": {0: {"momentum_buffer": layer.weight.detach()}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 100, "state_dict": state, "optimizer": momentum, "best_acc": 77.0}


def test_dino_s_small_head_reads_four_blocks(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(4 * WIDTH)
    torch.save(of_dino(layer), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(dino, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert (loaded.model.config.pool, loaded.model.config.pool_blocks, loaded.model.pool_width) == ("token", 4, 128)
    assert loaded.origin.notes[-1] == "the head of head.pth (7 classes) reads the class tokens of the last 4 blocks"
    assert len(loaded.labels) == 7
    batch = images(SIZE)
    with torch.no_grad():
        tokens, _ = vectors(dino, batch, 4)
        expected = layer(torch.cat(list(tokens), dim=1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4
    # Every number again from our own folder, which alone of the layouts can say it.
    assert checkpoints.save(loaded, tmp_path / "ours") == "vitkit"
    again = checkpoints.load(tmp_path / "ours")
    assert again.model.config == loaded.model.config
    with torch.no_grad():
        assert torch.equal(again.model(batch), loaded.model(batch))
    for target, suffix in {"timm": "", "huggingface": "", "npz": ".npz", "torchvision": ".pth"}.items():
        with pytest.raises(CheckpointError, match="cannot say pool_blocks=4"):
            checkpoints.save(loaded, tmp_path / f"{target}{suffix}", to=target)


def test_dino_s_base_head_has_its_columns_in_turn(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(2 * WIDTH)
    torch.save(of_dino(layer), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(dino, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert "the class token and the mean patch, which stand in turn in the file" in loaded.origin.notes[-1]
    batch = images(SIZE)
    with torch.no_grad():
        tokens, mean = vectors(dino, batch, 1)
        expected = layer(torch.stack([tokens[0], mean], dim=2).flatten(1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("count", "patches"), [(1, True), (4, True), (1, False)])
def test_dinov2_s_heads(count: int, patches: bool, registered: nn.Module, tmp_path: Path) -> None:
    layer = linear((count + patches) * WIDTH)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    loaded = checkpoints.load(backbone(registered, tmp_path), head=tmp_path / "head.pth", config={"num_heads": 2})
    assert loaded.model.config.num_registers == 4
    batch = images(SIZE)
    with torch.no_grad():
        tokens, mean = vectors(registered, batch, count)
        expected = layer(torch.cat([*tokens, *([mean] if patches else [])], dim=1))
        assert (loaded.model(batch) - expected).abs().max() < 1e-4


def test_dinov2_is_judged_at_224_of_256_pixels(registered: nn.Module, tmp_path: Path) -> None:
    """And at the size of its table's last stage as timm has it, without a margin."""
    path = backbone(registered, tmp_path).rename(tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    smaller, own = (checkpoints.load(path, image_size=size, config={"num_heads": 2}).processor for size in (16, 32))
    assert (smaller.size, smaller.resize_to) == ((16, 16), 18)
    assert (own.size, own.resize_to) == ((32, 32), 32)


def test_the_caller_says_what_a_head_reads(dino: nn.Module, tmp_path: Path) -> None:
    layer = linear(3 * WIDTH)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    path = backbone(dino, tmp_path)
    with pytest.raises(CheckpointError, match=r"head\.pth reads vectors of 96; of tokens of 32 heads read 32, 64, 128"):
        checkpoints.load(path, head=tmp_path / "head.pth", config={"num_heads": 2})
    stated = {"num_heads": 2, "pool": "token", "pool_blocks": 3}
    loaded = checkpoints.load(path, head=tmp_path / "head.pth", config=stated)
    batch = images(SIZE)
    with torch.no_grad():
        tokens, _ = vectors(dino, batch, 3)
        assert (loaded.model(batch) - layer(torch.cat(list(tokens), dim=1))).abs().max() < 1e-4
    with pytest.raises(
        CheckpointError, match=r"reads vectors of 96, but of the class tokens of the last 2 blocks they are 64"
    ):
        checkpoints.load(path, head=tmp_path / "head.pth", config=stated | {"pool_blocks": 2})


def test_convert_puts_a_head_on(dino: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(of_dino(linear(4 * WIDTH)), tmp_path / "head.pth")
    words = [str(backbone(dino, tmp_path)), str(tmp_path / "whole"), "--to", "vitkit", "--set", "num_heads=2"]
    assert main(["convert", *words, "--head", str(tmp_path / "head.pth")]) == 0
    whole = checkpoints.load(tmp_path / "whole")
    assert whole.model.config.pool_blocks == 4
    capsys.readouterr()
    words[1] = str(tmp_path / "other")
    assert main(["convert", *words, "--head", str(tmp_path / "no.pth")]) == 1
    assert f"there is no file {tmp_path / 'no.pth'}" in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, 2, 4, 5])
def test_another_head_takes_the_place_of_one(times: int, tmp_path: Path) -> None:
    """Whatever the first one read; what is written then is read again."""
    model = fill(models.build(vit.Config(**SMALL_CONFIG, pool_blocks=3, num_classes=9)))
    config = models.to_dict(model.config)
    torch.save(linear(times * WIDTH).state_dict(), tmp_path / "head.pth")
    whole = Checkpoint(model=model, processor=Processor.squash(32), labels=default_labels(9))
    checkpoints.save(whole, tmp_path / "whole")
    loaded = checkpoints.load(tmp_path / "whole", head=tmp_path / "head.pth")
    assert loaded.origin.notes[-1].endswith(" and takes the place of one of 9 classes")
    assert len(loaded.labels) == loaded.model.config.num_classes == 7
    batch = images(SIZE)
    with torch.no_grad():
        answers = loaded.model(batch)
        assert checkpoints.save(loaded, tmp_path / "again", to="vitkit") == "vitkit"
        assert torch.equal(checkpoints.load(tmp_path / "again").model(batch), answers)
    assert config == models.to_dict(model.config)


def test_a_model_s_own_reading_goes_before_that_of_published_heads(tmp_path: Path) -> None:
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


def test_only_dino_s_own_file_has_its_columns_in_turn(tmp_path: Path) -> None:
    layer = linear(2 * WIDTH)
    torch.save({f"linear.{name}": value for name, value in layer.state_dict().items()}, tmp_path / "head.pth")
    model = models.build(vit.Config(**SMALL_CONFIG))
    heads.attach(model, tmp_path / "head.pth", {})
    assert torch.equal(model.head.weight, layer.weight)


def test_a_head_has_the_type_of_its_model(tmp_path: Path) -> None:
    torch.save(linear(WIDTH).bfloat16().state_dict(), tmp_path / "head.pth")
    model = models.build(vit.Config(**SMALL_CONFIG))
    heads.attach(model, tmp_path / "head.pth", {}, None)
    assert model.head.weight.dtype == torch.float32
    for weight in (torch.ones(7, 32, dtype=torch.int64), torch.ones(0, 32)):
        torch.save({"weight": weight, "bias": torch.ones(weight.shape[0])}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=r"other\.pth is no linear head"):
            heads.attach(model, tmp_path / "other.pth", {})


def test_what_is_no_head_is_refused(dino: nn.Module, tmp_path: Path) -> None:
    path, config = backbone(dino, tmp_path), {"num_heads": 2}
    with pytest.raises(CheckpointError, match=r"backbone\.pth is no linear head, .* it holds cls_token, pos_embed"):
        checkpoints.load(path, head=path, config=config)
    torch.save({"weight": torch.ones(7, 32), "bias": torch.ones(6)}, tmp_path / "torn.pth")
    with pytest.raises(CheckpointError, match=r"torn\.pth is no linear head"):
        checkpoints.load(path, head=tmp_path / "torn.pth", config=config)
    torch.save({"weight": torch.ones(7, 128), "bias": torch.ones(7)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="both say which head there is"):
        checkpoints.load(path, head=tmp_path / "head.pth", num_classes=3)
    shallow = models.build(vit.TINY)
    with pytest.raises(CheckpointError, match="pool_blocks is 4; it must be 1 to 2, the depth"):
        heads.attach(shallow, tmp_path / "head.pth", {})
    assert shallow.config == vit.TINY
    with pytest.raises(CheckpointError, match="not beit"):
        heads.attach(models.build(beit.TINY), tmp_path / "head.pth", {})
    averaged = models.build(vit.Config(**SMALL_CONFIG, class_token=False, pool="gap", norm="pooled"))
    with pytest.raises(CheckpointError, match="reads tokens behind the final norm"):
        heads.attach(averaged, tmp_path / "head.pth", {})


def test_a_config_that_reads_what_there_is_not() -> None:
    for blocks in (0, 5):
        with pytest.raises(ValueError, match=f"pool_blocks is {blocks}; it must be 1 to 4"):
            vit.Config(**SMALL_CONFIG, pool_blocks=blocks)
    for more in ({"pool": "gap"}, {"pool": "map"}, {"norm": "pooled"}):
        with pytest.raises(ValueError, match="needs pool=.token. or .token.gap. and norm=.tokens."):
            vit.Config(**SMALL_CONFIG, pool_blocks=2, **more)


@pytest.mark.parametrize("pool", ["token", "token+gap"])
def test_the_engine_reads_several_blocks_too(pool: Any) -> None:
    model = fill(models.build(vit.Config(**SMALL_CONFIG, pool=pool, pool_blocks=3, num_classes=7)))
    batch = torch.randn(2 * engine.CHUNK + 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = engine.accelerate(model, precision="bfloat16")
    with torch.inference_mode():
        fast, exact = made.model(batch), model(batch)
        features = made.model.features(batch)
    assert features.earlier is not None
    assert features.earlier.shape == (batch.shape[0], 2, 32)
    # One token is read of the last block, too, where no patch is.
    assert features.tokens.shape[1] == (1 if pool == "token" else 17)
    assert (fast - exact).std() < 0.03 * exact.std()


def test_making_it_fast_draws_nothing() -> None:
    model = models.build(vit.Config(**SMALL_CONFIG, pool_blocks=3, num_classes=7, stochastic_depth=0.5)).train()
    before = torch.get_rng_state()
    engine.accelerate(model, precision="bfloat16")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_a_batch_is_cut_and_joined_with_all_that_is_of_a_picture() -> None:
    parts = [
        Answered(
            tokens=torch.rand(n, 5, 4), grid=(2, 2), num_special=1, earlier=torch.rand(n, 1, 4), logits=torch.rand(n, 3)
        )
        for n in (2, 3)
    ]
    joined = Answered.join(parts)
    assert isinstance(joined, Answered)
    assert (joined.grid, joined.num_special, joined.representation) == ((2, 2), 1, None)
    last = joined.each(lambda tensor: tensor[2:])
    for name in ("tokens", "earlier", "logits"):
        assert torch.equal(getattr(last, name), getattr(parts[1], name))


def test_the_twin_in_flax_says_that_it_reads_one_block() -> None:
    pytest.importorskip("flax")
    from vitkit.jax.vit import check

    with pytest.raises(ValueError, match="the Flax twin has no pool_blocks=3"):
        check(vit.Config(**SMALL_CONFIG, pool_blocks=3))
