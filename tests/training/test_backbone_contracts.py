"""What training needs of every model family: heads, blocks, layer numbers and layer-wise learning rates."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from vitkit import distributed, models
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.layers.dalle import DalleEncoder
from vitkit.models import TokenBackbone, vit
from vitkit.objectives import beit, dino, mae, simmim, supervised
from vitkit.training import Run, optim, tuning
from vitkit.training.optim import Optimizer
from vitkit.training.setup import build_training
from vitkit.training.tuning import Tuning

FAMILIES = models.families()
WITH_BLOCKS = [name for name in FAMILIES if name not in ("bit", "resnet", "axial_resnet")]


def tiny(family: str) -> models.Backbone:
    torch.manual_seed(0)
    return models.build(models.family(family).TINY)


def trained(module: nn.Module) -> set[str]:
    return {name for name, each in module.named_parameters() if each.requires_grad}


def run_of(make: Callable[..., Run], family: str, **changes: Any) -> Run:
    """The small run with the tiny model of a family."""
    config = models.family(family).TINY
    rows, columns = config.image_size
    processor = replace(Processor.squash(rows, interpolation="bicubic"), size=(rows, columns))
    return replace(make(**changes), model=config, processor=processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_tuning_trains_every_head_and_nothing_else(family: str) -> None:
    model = tiny(family)
    tuning.apply(Tuning(head_only=True), model)
    assert trained(model) == set(model.head_parameters())
    objective = supervised.build(supervised.Config(), model)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = optim.build(Optimizer(name="sgd", lr=0.1, weight_decay=0.0), objective)
    torch.manual_seed(1)
    images = torch.randn(4, model.config.channels, *model.config.image_size)
    objective(Batch(images, torch.eye(model.config.num_classes)[:4], ("", "", "", "")))["loss"].backward()
    optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == set(model.head_parameters())


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_lora_trains_every_head_and_its_own_matrices(family: str) -> None:
    model = tiny(family)
    heads = set(model.head_parameters())
    tuning.apply(Tuning(lora_rank=2), model)
    found = trained(model)
    assert heads < found
    assert all(name in heads or name.endswith((".up", ".down")) for name in found)
    assert {model.layer_of(name) for name in found - heads} == set(range(1, len(model.blocks) + 1))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITH_BLOCKS])
def test_lora_of_a_model_without_attention_is_rejected(family: str) -> None:
    with pytest.raises(ValueError, match=f"LoRA is for attention layers, but the family {family} has none"):
        tuning.apply(Tuning(lora_rank=2), tiny(family))
    model = tiny(family)
    tuning.apply(Tuning(lora_rank=2, lora_layers=("head",)), model)
    assert {name.rpartition(".")[2] for name in trained(model)} == {"up", "down", "original", "bias"}


def test_head_tuning_of_a_model_without_a_head_is_rejected() -> None:
    model = models.build(replace(vit.TINY, num_classes=0))
    with pytest.raises(ValueError, match="needs a model with a head, but num_classes is 0"):
        tuning.apply(Tuning(head_only=True), model)
    tuning.apply(Tuning(lora_rank=2), model)
    assert trained(model)
    assert all(name.endswith((".up", ".down")) for name in trained(model))


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_activation_checkpointing_wraps_exactly_the_encoder_blocks(family: str, small_run: Callable[..., Run]) -> None:
    run = run_of(small_run, family, hardware__activation_checkpointing=True)
    run = replace(run, model=replace(run.model, num_classes=10))
    objective = build_training(run, 12, torch.device("cpu")).objective
    blocks = {id(block) for block in objective.backbone.blocks}
    wrapped = {id(module) for module in objective.modules() if isinstance(vars(module).get("forward"), partial)}
    assert wrapped == blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_fsdp_shards_exactly_the_encoder_blocks_and_the_rest(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded: list[nn.Module] = []
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, mesh: sharded.append(module))
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda kind, sizes: None)
    objective = supervised.build(supervised.Config(), tiny(family))
    distributed.shard(objective, "fsdp", objective.blocks())
    assert [id(each) for each in sharded] == [*map(id, objective.backbone.blocks), id(objective)]


@pytest.mark.parametrize("setting", ["activation_checkpointing", "compile"])
def test_settings_for_blocks_are_rejected_where_there_are_none(setting: str, small_run: Callable[..., Run]) -> None:
    run = run_of(small_run, "bit", **{f"hardware__{setting}": True})
    with pytest.raises(
        ValueError, match=rf"hardware\.{setting} needs encoder blocks, but the model family 'bit' has none"
    ):
        build_training(run, 12, torch.device("cpu"))


def test_blocks_of_an_objective() -> None:
    """DINO has two encoders, MAE also has decoder blocks; the `blocks` of DALL-E's tokenizer do not count."""
    both = dino.build(dino.Config(outputs=8, hidden=8, bottleneck=4), tiny("vit"))
    assert isinstance(both.student, TokenBackbone)
    assert [id(each) for each in both.blocks()] == [id(each) for each in (*both.student.blocks, *both.backbone.blocks)]
    painter = mae.build(mae.Config(decoder_width=16, decoder_depth=1, decoder_heads=2), tiny("mae"))
    assert [id(each) for each in painter.blocks()] == [
        id(each) for each in (*painter.backbone.blocks, *painter.decoder.decoder_blocks)
    ]
    words = beit.build(beit.Config(codes=8, code_width=4, hidden=8), tiny("beit"))
    words.published = DalleEncoder(hidden=4, vocabulary=8, groups=2, blocks=1)
    assert any(name.startswith("published.blocks.") for name, _ in words.named_modules())
    assert [id(each) for each in words.blocks()] == [id(each) for each in words.backbone.blocks]


def scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Returns the learning rate factor of every parameter, read from the groups of an optimizer."""
    optimizer = optim.build(Optimizer(layer_decay=layer_decay), module)
    names = {id(each): name for name, each in module.named_parameters()}
    return {names[id(each)]: group["scale"] for group in optimizer.param_groups for each in group["params"]}


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_layer_wise_learning_rates_of_every_family(family: str) -> None:
    objective = supervised.build(supervised.Config(), tiny(family))
    found, model = scales(objective, 0.5), objective.backbone
    assert found == {
        f"backbone.{name}": 0.5 ** (len(model.blocks) + 1 - model.layer_of(name)) for name in trained(model)
    }
    assert min(found.values()) == 0.5 ** (len(model.blocks) + 1)
    assert max(found.values()) == 1.0


def test_layer_wise_learning_rates_of_a_vit_equal_the_published_code() -> None:
    """Against the loop of `param_groups_lrd` in BEiT and MAE."""
    model = tiny("vit")
    num_layers = len(model.blocks) + 1
    layer_scales = [0.65 ** (num_layers - i) for i in range(num_layers + 1)]
    for name, found in scales(model, 0.65).items():
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
            layer = 0
        elif name.startswith("blocks"):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = num_layers
        assert found == layer_scales[layer], name


def test_layer_wise_learning_rates_of_tokens_stages_and_parts_of_objectives() -> None:
    depth = len(tiny("vit").blocks)
    first = 0.5 ** (depth + 1)
    distilled = scales(tiny("deit"), 0.5)
    assert distilled["dist_token"] == distilled["cls_token"] == first
    assert distilled["head_dist.weight"] == distilled["head.weight"] == 1.0
    hybrid = scales(tiny("hybrid"), 0.5)
    assert {scale for name, scale in hybrid.items() if ".stages." in name} == {min(hybrid.values())}
    masked = scales(simmim.build(simmim.Config(unit=8), tiny("vit")), 0.5)
    assert masked["mask_token"] == first
    assert masked["decoder.weight"] == 1.0
    painter = scales(mae.build(mae.Config(decoder_width=16, decoder_depth=1, decoder_heads=2), tiny("mae")), 0.5)
    assert {scale for name, scale in painter.items() if name.startswith("decoder.")} == {1.0}
    both = scales(dino.build(dino.Config(outputs=8, hidden=8, bottleneck=4), tiny("vit")), 0.5)
    assert both["student.cls_token"] == first
    assert both["student.blocks.1.mlp.fc1.weight"] == 0.5
    assert {scale for name, scale in both.items() if name.startswith("student_head.")} == {1.0}


def test_layer_decay_and_muon_need_encoder_blocks() -> None:
    for family in ("bit", "resnet", "axial_resnet"):
        with pytest.raises(ValueError, match="layer_decay needs a model with encoder blocks"):
            optim.build(Optimizer(layer_decay=0.5), tiny(family))
        with pytest.raises(ValueError, match="muon needs trainable matrices in encoder blocks"):
            optim.build(Optimizer(name="muon"), tiny(family))


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_muon_takes_exactly_the_matrices_of_encoder_blocks(family: str) -> None:
    model = tiny(family)
    matrices = {
        id(layer.weight)
        for block in model.blocks
        for layer in block.modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad
    }
    built: Any = optim.build(Optimizer(name="muon"), model)
    muon = built.parts[0]
    assert isinstance(muon, torch.optim.Muon)
    assert {id(each) for group in muon.param_groups for each in group["params"]} == matrices
