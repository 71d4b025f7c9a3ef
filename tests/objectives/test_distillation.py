"""Distillation against torch's KL divergence, and a teacher that does not change."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitkit import checkpoints, models
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.models import axial_resnet, deit, vit
from vitkit.objectives import distillation

LABELS = tuple("abcde")


def write(folder: Path, config: object, processor: Processor, seed: int = 9) -> str:
    torch.manual_seed(seed)
    model = models.build(config)
    nn.init.normal_(model.get_parameter("head.weight"))
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=processor, labels=LABELS), folder)
    return str(folder)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return write(tmp_path / "teacher", vit.TINY, Processor.squash(32))


def build(teacher: str, model: object = vit.TINY, **changes: object) -> distillation.Distillation:
    torch.manual_seed(0)
    student = models.build(model)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.startswith("head"):
                parameter.normal_()
    return distillation.build(distillation.Config(teacher=teacher, **changes), student)  # type: ignore[arg-type]


def batch(size: int = 32) -> Batch:
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.eye(5)[[0, 1, 2, 3]], ("",) * 4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_loss_matches_kl_divergence_and_deits_code_divides_by_the_classes(
    teacher: str, temperature: float
) -> None:
    student, teacher_logits = torch.randn(6, 5), torch.randn(6, 5)
    p, q = (teacher_logits / temperature).log_softmax(1), (student / temperature).log_softmax(1)
    textbook = functional.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2
    code = functional.kl_div(q, p, reduction="sum", log_target=True) * temperature**2 / student.numel()
    mean = build(teacher, kind="soft", temperature=temperature).teacher_loss(student, teacher_logits)
    elements = build(teacher, kind="soft", temperature=temperature, average="elements").teacher_loss(
        student, teacher_logits
    )
    torch.testing.assert_close(mean, textbook)
    torch.testing.assert_close(elements, code)
    torch.testing.assert_close(elements * 5, textbook)


@pytest.mark.parametrize("model", [vit.TINY, deit.TINY])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_loss_of_students_with_one_and_two_heads(teacher: str, model: object, kind: str) -> None:
    objective, given = build(teacher, model, kind=kind, alpha=0.3, label_smoothing=0.1), batch()
    scalars = objective(given)
    backbone = objective.backbone
    with torch.no_grad():
        teacher_logits = checkpoints.load(teacher).model(given.images)
        if isinstance(backbone, deit.DeiT):
            first, second = backbone.both_logits(backbone.features(given.images)).unbind(1)
            assert not torch.equal(first, second)
        else:
            first = second = backbone(given.images)
    labels = functional.cross_entropy(first, given.targets.argmax(1), label_smoothing=0.1)
    torch.testing.assert_close(scalars["labels"], labels)
    if kind == "hard":
        expected = functional.cross_entropy(second, teacher_logits.argmax(1))
    else:
        p, q = (teacher_logits / 3).log_softmax(1), (second / 3).log_softmax(1)
        expected = functional.kl_div(q, p, reduction="batchmean", log_target=True) * 9
    torch.testing.assert_close(scalars["teacher"], expected)
    torch.testing.assert_close(scalars["loss"], 0.7 * labels + 0.3 * expected)
    torch.testing.assert_close(scalars["agree"], (second.argmax(1) == teacher_logits.argmax(1)).float().mean())


def test_the_distillation_token_alone_is_trained_on_the_teacher(teacher: str) -> None:
    objective = build(teacher, deit.TINY, alpha=1.0)
    objective(batch())["loss"].backward()
    assert objective.backbone.get_parameter("head_dist.weight").grad.abs().sum() > 0  # type: ignore[union-attr]
    assert objective.backbone.get_parameter("head.weight").grad.abs().sum() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [vit.TINY, deit.TINY])
def test_a_separate_head_is_trained_on_other_classes(teacher: str, model: vit.Config | deit.Config) -> None:
    objective = build(teacher, dataclasses.replace(model, num_classes=3), kind="soft", alpha=0.3, separate_head=True)
    assert objective.separate_head is not None
    given = dataclasses.replace(batch(), targets=torch.eye(3)[[0, 1, 2, 0]])
    scalars = objective.eval()(given)
    features = objective.backbone.features(given.images)
    logits, teacher_logits = objective.backbone.logits(features), objective.teacher(given.images)
    assert (logits.shape, teacher_logits.shape) == ((4, 3), (4, 5))
    labels = functional.cross_entropy(logits, given.targets)
    teacher_loss = objective.teacher_loss(
        objective.separate_head(objective.backbone.represent(features)), teacher_logits
    )
    torch.testing.assert_close(scalars["loss"], 0.7 * labels + 0.3 * teacher_loss)
    assert scalars["accuracy"] == (logits.argmax(1) == given.targets.argmax(1)).float().mean()
    scalars["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.separate_head.parameters())
    # The head belongs to the objective, not to the student.
    assert {"separate_head.weight", "separate_head.bias"} <= objective.state_dict().keys()
    assert not [name for name in objective.backbone.state_dict() if "separate_head" in name]


def test_the_teacher_is_frozen_in_evaluation_mode_and_not_in_the_state_dict(tmp_path: Path) -> None:
    path = write(tmp_path / "teacher", axial_resnet.TINY, Processor.squash(40))  # its batch norms change in training
    objective = build(path).train()
    assert not objective.teacher.training
    before = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    objective(batch())["loss"].backward()  # at another size than the student's
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.teacher.state_dict().items())
    state = objective.state_dict()
    assert "teacher_digest" in state
    assert not [name for name in state if name.startswith("teacher.")]
    assert build(path).load_state_dict(state).missing_keys == []


def test_the_teacher_gets_images_in_its_own_normalization_and_size(tmp_path: Path) -> None:
    # The teacher's logits do not depend on the normalization of the student.
    processor = Processor.squash(48, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    path = write(tmp_path / "teacher", dataclasses.replace(vit.TINY, image_size=(48, 48)), processor)
    objective = build(path, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    colors = torch.rand(2, 3, 48, 48)
    means = [torch.tensor(each)[:, None, None] for each in ((0.1, 0.2, 0.3), (0.485, 0.456, 0.406))]
    stds = [torch.tensor(each)[:, None, None] for each in ((0.5, 0.6, 0.7), (0.229, 0.224, 0.225))]
    expected = objective.teacher((colors - means[1]) / stds[1])
    torch.testing.assert_close(objective.teacher_logits((colors - means[0]) / stds[0]), expected, rtol=1e-4, atol=1e-4)
    shapes: list[torch.Size] = []
    objective.teacher.register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].shape))
    objective(batch())
    assert shapes == [(4, 3, 48, 48)]


def test_unsupported_students_and_teachers_are_rejected(teacher: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a teacher; set objective\.teacher"):
        build("")
    with pytest.raises(ValueError, match="the teacher has 5 classes, the student 7; fine-tune the teacher first, or"):
        build(teacher, dataclasses.replace(vit.TINY, num_classes=7))
    with pytest.raises(ValueError, match="needs a student with a head"):
        build(teacher, dataclasses.replace(vit.TINY, num_classes=0))
    with pytest.raises(ValueError, match="the student takes 1 channels, the teacher 3"):
        build(teacher, dataclasses.replace(vit.TINY, channels=1))
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        distillation.Config(alpha=1.5)
    with pytest.raises(ValueError, match="set both or neither"):
        distillation.Config(mean=(0.5,))
    other = build(write(tmp_path / "other", vit.TINY, Processor.squash(32), seed=10))
    with pytest.raises(ValueError, match="the weights of 'teacher' have changed since this run started"):
        other.load_state_dict(build(teacher).state_dict())
