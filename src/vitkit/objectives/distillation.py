"""Hard and soft knowledge distillation from a teacher (DeiT, section 4; Hinton et al. 2015).

A student with a distillation token (`models.deit`) is trained on the labels with its class token and on the teacher's
predictions with its distillation token; any other model is trained on both with its one head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.models import Backbone
from vitkit.models.deit import DeiT
from vitkit.objectives import Objective, save_digest_only
from vitkit.objectives.supervised import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of knowledge distillation: checkpoint of the teacher, kind of loss, and weight of the teacher loss.

    `teacher` is any checkpoint that vitkit loads, with the classes of the student. With `separate_head` it can
    have other classes (ImageNet's, for example): an additional head on the student's representation predicts them and
    is dropped after the run. `kind` "hard" uses the teacher's most likely class as the target, "soft" its probabilities
    at a `temperature`. The loss is (1 - alpha) times the loss of the labels plus alpha times that of the teacher.
    `average` is the reduction of the soft loss: over the `batch`, as in the papers, or over all `elements`, as in
    DeiT's code, which divides it by the number of classes. `mean` and `std` are those of the student's processor, None
    for those of the teacher's.
    """

    teacher: str = ""
    separate_head: bool = False
    kind: Literal["hard", "soft"] = "hard"
    alpha: float = 0.5
    temperature: float = 3.0
    average: Literal["batch", "elements"] = "batch"
    label_smoothing: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        if not 0.0 <= self.alpha <= 1.0 or self.temperature <= 0.0:
            given = f"alpha is {self.alpha} and temperature {self.temperature}"
            raise ValueError(f"{given}; alpha must be between 0 and 1, and temperature above 0")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean} and std is {self.std}; set both or neither")


class Distillation(Objective):
    """Distillation objective, which trains a student with labels and the predictions of a frozen teacher.

    The teacher is in evaluation mode and gets the same images at its own size. The state dict has a hash of the
    teacher's weights instead of the weights; resuming with another teacher raises ValueError. So does a teacher with
    other classes (without `separate_head`), or a student without a head.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: Config, backbone: Backbone, teacher: Backbone, processor: Processor):
        super().__init__()
        classes, teacher_classes = backbone.config.num_classes, teacher.config.num_classes
        if not isinstance(backbone.head, nn.Linear):
            raise ValueError("distillation needs a student with a head; set num_classes")
        if classes != teacher_classes and not config.separate_head:
            counts = f"the teacher has {teacher_classes} classes, the student {classes}"
            raise ValueError(f"{counts}; fine-tune the teacher first, or use a separate head (separate_head=true)")
        channels, others = backbone.config.channels, teacher.config.channels
        if not channels == others == len(config.mean or processor.mean) == len(config.std or processor.std):
            given = f"the student takes {channels} channels, the teacher {others}"
            raise ValueError(f"{given}; the numbers of channels and the lengths of mean and std must be equal")
        self.config = config
        self.backbone = backbone
        self.separate_head = nn.Linear(backbone.head.in_features, teacher_classes) if config.separate_head else None
        if self.separate_head is not None:
            nn.init.trunc_normal_(self.separate_head.weight, std=0.02)
            nn.init.zeros_(self.separate_head.bias)
        self.teacher = teacher.requires_grad_(False)
        self.size = processor.size
        # Converts images from the student's normalization to the teacher's.
        ours = torch.tensor([config.mean or processor.mean, config.std or processor.std])
        theirs = torch.tensor([processor.mean, processor.std])
        self.register_buffer("scale", (ours[1] / theirs[1])[:, None, None], persistent=False)
        self.register_buffer("shift", ((ours[0] - theirs[0]) / theirs[1])[:, None, None], persistent=False)
        save_digest_only(self, "teacher")
        self.train()

    def train(self, mode: bool = True) -> "Distillation":
        """Sets training or evaluation mode for the student. The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns the scalars `loss`, `labels`, `teacher`, `accuracy` and `agree`.

        `loss` is a weighted mean of `labels` (loss on the labels) and `teacher` (loss on the teacher's predictions).
        `agree` is the fraction of images for which student and teacher predict the same class.
        """
        first, second = self.student_logits(batch.images)
        teacher_logits = self.teacher_logits(batch.images)
        smoothing = self.config.label_smoothing
        labels = cross_entropy(first, batch.targets, kind="softmax", label_smoothing=smoothing)
        teacher = self.teacher_loss(second, teacher_logits)
        logits = first if self.separate_head is not None else (first + second) / 2
        hits = batch.targets.gather(1, logits.argmax(dim=1, keepdim=True)) >= batch.targets.amax(dim=1, keepdim=True)
        return {
            "loss": torch.lerp(labels, teacher, self.config.alpha),
            "labels": labels,
            "teacher": teacher,
            "accuracy": hits.float().mean(),
            "agree": (second.argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean(),
        }

    def student_logits(
        self, images: Float[Tensor, "b c height width"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b teacher_classes"]]:
        """Returns the student's logits for the label loss and for the teacher loss. With a single head, both are equal.

        The separate head for a teacher with other classes reads the representation of the student.
        """
        if self.separate_head is not None:
            features = self.backbone.features(images)
            return self.backbone.logits(features).float(), self.separate_head(self.backbone.represent(features)).float()
        if isinstance(self.backbone, DeiT):
            first, second = self.backbone.both_logits(self.backbone.features(images)).float().unbind(dim=1)
            return first, second
        logits = self.backbone(images).float()
        return logits, logits

    @torch.no_grad()
    def teacher_logits(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b classes"]:
        """Returns the teacher's logits for the images, which are resized and normalized as the teacher requires."""
        images = images * self.scale + self.shift
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bicubic", antialias=True)
        return self.teacher(images).float()

    def teacher_loss(
        self, student: Float[Tensor, "b classes"], teacher: Float[Tensor, "b classes"]
    ) -> Float[Tensor, ""]:
        """Returns the hard loss (cross-entropy with the teacher's class) or the soft loss (KL divergence times T^2)."""
        if self.config.kind == "hard":
            return F.cross_entropy(student, teacher.argmax(dim=1))
        t = self.config.temperature
        p, q = (teacher / t).log_softmax(dim=1), (student / t).log_softmax(dim=1)
        divergence = (p.exp() * (p - q)).sum(dim=1) * t**2
        return divergence.mean() / (1 if self.config.average == "batch" else student.shape[1])


def build(config: Config, backbone: Backbone) -> Distillation:
    """Builds the distillation objective, with the teacher loaded from a folder, a file or the Hub."""
    if not config.teacher:
        raise ValueError("distillation needs a teacher; set objective.teacher to a checkpoint")
    loaded = checkpoints.load(config.teacher)
    return Distillation(config, backbone, loaded.model, loaded.processor)
