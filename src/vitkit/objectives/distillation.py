"""Learning what a teacher says beside the labels: hard and soft distillation (DeiT, section 4; Hinton et al. 2015).

A student with a distillation token (`models.deit`) learns labels with its class token and the teacher with the other;
any other model learns both with its one head.
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
from vitkit.objectives import Objective, keep_by_digest
from vitkit.objectives.supervised import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Config:
    """`teacher` is any checkpoint that vitkit loads, with the student's classes; the rest is what is learned from it.

    With `aside` it may know other classes (ImageNet's, say): what it says is then learned by a head of its own beside
    the student's, which ends with the run; the student keeps what both heads read.
    `hard` takes the teacher's likeliest class for the truth, `soft` its probabilities at a `temperature`. The loss is
    (1 - alpha) times the labels' plus alpha times the teacher's. `average` is what soft distillation is averaged over:
    the `batch`, as in the papers, or, as in DeiT's code, all its `elements`, which makes it smaller by the number of
    classes. `mean` and `std` are those of the student's processor where they are not the teacher's own.
    """

    teacher: str = ""
    aside: bool = False
    kind: Literal["hard", "soft"] = "hard"
    alpha: float = 0.5
    temperature: float = 3.0
    average: Literal["batch", "elements"] = "batch"
    label_smoothing: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses shares and temperatures that are none."""
        if not 0.0 <= self.alpha <= 1.0 or self.temperature <= 0.0:
            given = f"alpha is {self.alpha} and temperature {self.temperature}"
            raise ValueError(f"{given}; a share between 0 and 1, and a temperature above 0")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given both or neither")


class Distillation(Objective):
    """A student, and a teacher that is frozen, in evaluation mode, and sees the same pictures at its own size.

    The state of a run holds the teacher's fingerprint in place of its weights, which are in its checkpoint already;
    going on with another teacher is a ValueError. So is one that has other classes, or a student without a head.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: Config, backbone: Backbone, teacher: Backbone, processor: Processor):
        super().__init__()
        classes, taught = backbone.config.num_classes, teacher.config.num_classes
        if not isinstance(backbone.head, nn.Linear):
            raise ValueError("distillation needs a student with a head: set num_classes")
        if classes != taught and not config.aside:
            given = f"the teacher knows {taught} classes, the student {classes}"
            raise ValueError(f"{given}: fine-tune the teacher first, or learn what it says aside (aside=true)")
        channels, seen = backbone.config.channels, teacher.config.channels
        if not channels == seen == len(config.mean or processor.mean) == len(config.std or processor.std):
            raise ValueError(f"the student takes {channels} channels, the teacher {seen}; mean and std are for as many")
        self.config = config
        self.backbone = backbone
        self.aside = nn.Linear(backbone.head.in_features, taught) if config.aside else None
        if self.aside is not None:
            nn.init.trunc_normal_(self.aside.weight, std=0.02)
            nn.init.zeros_(self.aside.bias)
        self.teacher = teacher.requires_grad_(False)
        self.size = processor.size
        # From the student's numbers to the teacher's.
        ours = torch.tensor([config.mean or processor.mean, config.std or processor.std])
        theirs = torch.tensor([processor.mean, processor.std])
        self.register_buffer("scale", (ours[1] / theirs[1])[:, None, None], persistent=False)
        self.register_buffer("shift", ((ours[0] - theirs[0]) / theirs[1])[:, None, None], persistent=False)
        keep_by_digest(self, "teacher")
        self.train()

    def train(self, mode: bool = True) -> "Distillation":
        """The student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`, its parts `labels` and `teacher`, the `accuracy`, and how often student and teacher `agree`."""
        first, second = self.answers(batch.images)
        taught = self.taught(batch.images)
        smoothing = self.config.label_smoothing
        labels = cross_entropy(first, batch.targets, kind="softmax", label_smoothing=smoothing)
        teacher = self.distance(second, taught)
        logits = first if self.aside is not None else (first + second) / 2
        hits = batch.targets.gather(1, logits.argmax(dim=1, keepdim=True)) >= batch.targets.amax(dim=1, keepdim=True)
        return {
            "loss": torch.lerp(labels, teacher, self.config.alpha),
            "labels": labels,
            "teacher": teacher,
            "accuracy": hits.float().mean(),
            "agree": (second.argmax(dim=1) == taught.argmax(dim=1)).float().mean(),
        }

    def answers(
        self, images: Float[Tensor, "b c height width"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b taught"]]:
        """The student's logits for the labels and those for the teacher: the same ones without a distillation token.

        Of a student with one the teacher's head aside reads what is represented by both tokens.
        """
        if self.aside is not None:
            features = self.backbone.features(images)
            return self.backbone.logits(features).float(), self.aside(self.backbone.represent(features)).float()
        if isinstance(self.backbone, DeiT):
            first, second = self.backbone.both(self.backbone.features(images)).float().unbind(dim=1)
            return first, second
        logits = self.backbone(images).float()
        return logits, logits

    @torch.no_grad()
    def taught(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b classes"]:
        """What the teacher says of the same pictures, changes and all, in its own size and numbers."""
        images = images * self.scale + self.shift
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bicubic", antialias=True)
        return self.teacher(images).float()

    def distance(self, student: Float[Tensor, "b classes"], teacher: Float[Tensor, "b classes"]) -> Float[Tensor, ""]:
        """The cross-entropy with the teacher's class, or T^2 KL(teacher || student) of both softened by T."""
        if self.config.kind == "hard":
            return F.cross_entropy(student, teacher.argmax(dim=1))
        t = self.config.temperature
        p, q = (teacher / t).log_softmax(dim=1), (student / t).log_softmax(dim=1)
        divergence = (p.exp() * (p - q)).sum(dim=1) * t**2
        return divergence.mean() / (1 if self.config.average == "batch" else student.shape[1])


def build(config: Config, backbone: Backbone) -> Distillation:
    """The objective around a student, its teacher read from the disk or the Hub."""
    if not config.teacher:
        raise ValueError("distillation needs a teacher: set objective.teacher to a checkpoint")
    loaded = checkpoints.load(config.teacher)
    return Distillation(config, backbone, loaded.model, loaded.processor)
