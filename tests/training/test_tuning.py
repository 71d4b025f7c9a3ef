"""Trainable parameters, LoRA and its merged weights, EMA weights, and initial weights from checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import vitkit
from vitkit import checkpoints, models
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.training import Run, setup, train, tuning
from vitkit.training.setup import build_training, evaluation_model
from vitkit.training.tuning import Tuning


def model() -> models.Backbone:
    torch.manual_seed(0)
    built = models.build(vit.TINY)
    nn.init.normal_(built.head.weight)
    return built.eval()


def trainable(backbone: nn.Module) -> set[str]:
    return {name for name, each in backbone.named_parameters() if each.requires_grad}


def test_patterns_choose_trainable_parameters() -> None:
    probe = model()
    tuning.apply(Tuning(train_only=("head.*",)), probe)
    assert trainable(probe) == {"head.weight", "head.bias"}
    part = model()
    tuning.apply(Tuning(freeze=("patch_embed.*", "pos_embed", "cls_token", "blocks.0.*")), part)
    assert trainable(part) == {name for name in trainable(model()) if name.startswith(("blocks.1.", "norm.", "head."))}
    with pytest.raises(
        ValueError, match=r"'blocks\.7\.\*' matches none of the model's parameters \(for example cls_token"
    ):
        tuning.apply(Tuning(freeze=("blocks.7.*",)), model())
    with pytest.raises(ValueError, match="no parameter is trainable"):
        tuning.apply(Tuning(freeze=("*",)), model())


def test_low_rank_updates_are_zero_at_first_and_merge_into_weights() -> None:
    images, plain = torch.randn(2, 3, 32, 32), model()
    adapted = model()
    tuning.apply(Tuning(lora_rank=3, lora_scale=0.5), adapted)
    with torch.no_grad():
        assert torch.equal(adapted(images), plain(images))
    low_rank = {name for name in trainable(adapted) if not name.startswith("head.")}
    assert len(low_rank) == 2 * 2 * 2
    assert all(name.endswith((".up", ".down")) for name in low_rank)
    expected = {}
    for name, layer in adapted.named_modules():
        if name.endswith(("attn.qkv", "attn.proj")):
            change = layer.parametrizations["weight"][0]  # type: ignore[index]
            nn.init.normal_(change.up)
            product = change.up.detach().double() @ change.down.detach().double()
            expected[f"{name}.weight"] = plain.get_parameter(f"{name}.weight").detach().double() + 0.5 * product
    with torch.no_grad():
        before = adapted(images)
    assert not torch.allclose(before, plain(images))
    plain.load_state_dict(tuning.merge_low_rank(adapted.state_dict(), Tuning(lora_rank=3, lora_scale=0.5)))
    with torch.no_grad():
        assert torch.equal(plain(images), before)
    for name, value in expected.items():
        torch.testing.assert_close(plain.get_parameter(name).detach().double(), value, atol=1e-6, rtol=1e-5)


def test_a_lora_run_saves_a_plain_model_and_changes_only_its_layers_and_the_head(
    small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = small_run(tuning__lora_rank=2, ema=0.5, select="last")
    fresh = setup.initial_model(run).state_dict()
    train(run, tmp_path / "run")
    saved = vitkit.load(tmp_path / "run" / "best").model.state_dict()
    assert saved.keys() == fresh.keys()
    torch.manual_seed(run.seed)
    first = setup.initial_model(run).state_dict()
    moved = {name for name, value in saved.items() if not torch.equal(value, first[name])}
    assert moved == {
        *(f"blocks.{index}.attn.{part}.weight" for index in (0, 1) for part in ("qkv", "proj")),
        "head.weight",
        "head.bias",
    }


def test_ema_weights_are_evaluated(small_run: Callable[..., Run]) -> None:
    training = build_training(small_run(ema=0.9), 12, torch.device("cpu"))
    assert training.ema is not None
    for value in training.ema.values.values():
        value.fill_(0.25)
    found = evaluation_model(training)
    assert found is not training.objective.backbone
    assert all(torch.all(value == 0.25) for value in found.parameters())
    assert build_training(small_run(), 12, torch.device("cpu")).ema is None


def test_a_run_is_initialized_from_a_checkpoint_with_a_zero_head(small_run: Callable[..., Run], tmp_path: Path) -> None:
    labels = tuple("abcde")
    checkpoints.save(
        checkpoints.Checkpoint(model=model(), processor=Processor.squash(32), labels=labels), tmp_path / "c"
    )
    changes = {f"model__{name}": getattr(vit.TINY, name) for name in ("width", "depth", "mlp_width", "num_heads")}
    run = small_run(**changes, model__patch_size=[8, 8], model__image_size=[16, 16], init_from=str(tmp_path / "c"))
    built, given = setup.initial_model(run), model()
    assert not built.head.weight.any()  # type: ignore[union-attr]
    assert built.head.weight.shape == (10, 32)  # type: ignore[union-attr]
    assert built.pos_embed.shape == (1, 5, 32)  # type: ignore[union-attr]
    for name, value in given.state_dict().items():
        if not name.startswith(("head.", "pos_embed")):
            assert torch.equal(built.state_dict()[name], value)
    other = small_run(**{**changes, "model__mlp_width": 48}, model__patch_size=[8, 8], init_from=str(tmp_path / "c"))
    with pytest.raises(
        ValueError, match=r"has a different architecture from the run: 'blocks\.0\.mlp\.fc1\.bias' is \(64,\)"
    ):
        setup.initial_model(other)
