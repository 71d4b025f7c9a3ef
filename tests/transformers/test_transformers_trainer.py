"""Training our models with transformers.Trainer: accumulation, evaluation, checkpoints, resuming, best model."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image
from torch.utils.data import Dataset

from vitkit import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTImageProcessor

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 3,
}


class ColorDataset(Dataset[dict[str, Any]]):
    """Noisy images whose strongest channel is the class, with a column that no model uses."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = np.random.default_rng(index).integers(0, 100, (20, 20, 3), dtype=np.uint8)
        pixels[..., index % 3] += 150
        image = Image.fromarray(pixels)
        values = ViTImageProcessor(size=16)(image, return_tensors="pt").pixel_values[0]
        return {"pixel_values": values, "labels": index % 3, "file_name": "unused"}


class MaskedDataset(ColorDataset):
    """The same images with masked patches."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        mask = torch.tensor([True, False, False, True])
        return {"pixel_values": super().__getitem__(index)["pixel_values"], "bool_masked_pos": mask}


def arguments(hf: ModuleType, folder: Path, **settings: Any) -> Any:
    oracle("accelerate")
    return hf.TrainingArguments(
        str(folder),
        **{
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 6,
            "save_steps": 6,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        | settings,
    )


def make() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SMALL))


def accuracy(result: Any) -> dict[str, float]:
    return {"accuracy": float((result.predictions.argmax(-1) == result.label_ids).mean())}


def test_trainer_trains_evaluates_saves_and_resumes(hf: ModuleType, tmp_path: Path) -> None:
    model = make()
    trainer = hf.Trainer(
        model,
        arguments(hf, tmp_path, load_best_model_at_end=True, metric_for_best_model="accuracy"),
        train_dataset=ColorDataset(),
        eval_dataset=ColorDataset(),
        processing_class=ViTImageProcessor(size=16),
        compute_metrics=accuracy,
    )
    losses = [entry["loss"] for entry in trainer.train() and trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(np.log(3), abs=0.2), "every image counts once in accumulated batches"
    assert trainer.evaluate()["eval_accuracy"] >= 0.9
    assert trainer.predict(ColorDataset()).predictions.shape == (24, 3)
    model.save_pretrained(tmp_path / "model")
    again = ViTForImageClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    trainer.save_model(str(tmp_path / "weights"))
    again = ViTForImageClassification.from_pretrained(tmp_path / "weights")
    assert again.config.to_dict() == model.config.to_dict()
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert ViTImageProcessor.from_pretrained(tmp_path / "weights").size.height == 16

    resumed = make()
    trainer = hf.Trainer(resumed, arguments(hf, tmp_path), train_dataset=ColorDataset(), eval_dataset=ColorDataset())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    rerun = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert rerun == pytest.approx(losses, abs=1e-5)


@pytest.mark.slow
def test_losses_match_training_of_transformers_model(hf: ModuleType, tmp_path: Path) -> None:
    """Trains both classes with the same weights, data and seed; ours with activation checkpointing."""
    ours = make()
    reference = hf.ViTForImageClassification(hf.ViTConfig(**SMALL))
    ours.name_format = "v5"
    reference.load_state_dict(ours.state_dict())
    histories = []
    for model, settings in ((reference, {}), (ours, {"activation_checkpointing": True})):
        changes = {
            "max_steps": 5,
            "eval_strategy": "no",
            "save_strategy": "no",
            "optim": "adamw_torch",
            "max_grad_norm": 0.5,
        }
        trainer = hf.Trainer(model, arguments(hf, tmp_path, **changes, **settings), train_dataset=ColorDataset())
        trainer.train()
        histories.append(
            [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
        )
    assert len(histories[0]) == 5
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(reference.named_parameters())[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_trainer_trains_masked_image_modelling(hf: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViTForMaskedImageModeling(ViTConfig(**SMALL))
    changes = {"eval_strategy": "no", "save_strategy": "no", "max_steps": 8}
    trainer = hf.Trainer(model, arguments(hf, tmp_path, **changes), train_dataset=MaskedDataset())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
