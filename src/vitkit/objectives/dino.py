"""DINO: self-distillation without labels (Caron et al. 2021)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import distributed
from vitkit.checkpoints.pretraining import Layout
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.augment.views import ColorAugmentation, augment_colors, random_crops
from vitkit.data.loader import Batch
from vitkit.layers.pool import Prototypes
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective, add_progress, load_into, set_progress

NEEDS_LABELS = False

MODELS = (("student", "student"), ("backbone", "teacher"))  # our name, name in files
# A full checkpoint of DINO's code: two models, two heads, and the center of the loss.
LAYOUTS = (
    Layout(
        Table(
            (
                Rule("center", ("dino_loss.center",)),
                *(Rule(f"{ours}.{{name}}", (f"{theirs}.backbone.{{name}}",)) for ours, theirs in MODELS),
                *(Rule(f"{theirs}_head.{{name}}", (f"{theirs}.head.{{name}}",)) for _, theirs in MODELS),
            )
        ),
        aliases=((r"^(student|teacher)\.module\.", r"\1."),),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of DINO: views, projection head and schedules. The defaults are those of the published code.

    `epochs` is the length of the run in epochs, the unit of the other epoch counts. There are two global crops of the
    model's image size and `local_crops` small ones of `local_size` (rows, columns); None is 3/7 of the image size,
    rounded to patches (96 for 224). `global_scale` and `local_scale` are the ranges of the crops' fraction of the image
    area. `outputs` is K, the number of prototypes; with `fixed_norm` they have norm 1. The teacher's temperature
    changes linearly by epoch from the first to the second of `teacher_temperatures` over `temperature_epochs`. The last
    layer is frozen for `freeze_epochs`. The teacher's `momentum` increases to 1 by a cosine schedule; 1 /
    (1 - momentum) steps should be short compared with the run. `start` is a full checkpoint of DINO's code, from which
    student, teacher, heads and center are loaded.
    """

    outputs: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    fixed_norm: bool = True
    local_crops: int = 8
    local_size: tuple[int, int] | None = None
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    colors: ColorAugmentation = field(default_factory=ColorAugmentation)
    epochs: int = 100
    student_temperature: float = 0.1
    teacher_temperatures: tuple[float, float] = (0.04, 0.04)
    temperature_epochs: int = 0
    freeze_epochs: int = 1
    momentum: float = 0.996
    center_momentum: float = 0.9
    start: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        for name, least in (("outputs", 2), ("hidden", 1), ("bottleneck", 1), ("epochs", 1), ("local_crops", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("momentum", "center_momentum"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if min(self.student_temperature, *self.teacher_temperatures) <= 0.0:
            temperatures = (self.student_temperature, *self.teacher_temperatures)
            raise ValueError(f"the temperatures are {temperatures}; all must be above 0")


class Head(nn.Module):
    """Projection head of DINO: three-layer MLP, L2 normalization, and a weight-normalized linear layer."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        sizes = (width, config.hidden, config.hidden, config.bottleneck)
        layers = [nn.Linear(inner, outer) for inner, outer in pairwise(sizes)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.last_layer = Prototypes(config.bottleneck, config.outputs, fixed_norm=config.fixed_norm)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b d"], *, frozen: bool = False) -> Float[Tensor, "b k"]:
        """Returns the logits. If `frozen` is True, the last layer gets no gradient and is not updated."""
        return self.last_layer(F.normalize(self.mlp(x).float(), dim=1), frozen=frozen)


class DINO(Objective):
    """DINO objective, which trains `student`. `backbone` is the teacher, which is evaluated and saved.

    All schedules are functions of `progress`, the completed fraction of the run. Raises ValueError for a model without
    pooling.
    """

    center: Tensor
    batch_sum: Tensor
    batch_count: Tensor

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if getattr(backbone.config, "pool", "") == "none":
            raise ValueError("DINO needs one vector per image, but pool is 'none'; set pool to token or gap")
        channels = backbone.config.channels
        if not len(config.colors.mean) == len(config.colors.std) == channels:
            raise ValueError(
                f"colors.mean and colors.std must each have {channels} values, one per channel of the model"
            )
        self.config = config
        self.student = backbone
        self.student_head = Head(getattr(backbone.config, "pre_logits", 0) or backbone.pool_width, config)
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.size: tuple[int, int] = tuple(backbone.config.image_size)
        self.local_size = config.local_size or _local_size(self.size, backbone)
        if isinstance(backbone, TokenBackbone):
            backbone.patch_embed.check_filled(
                torch.empty(1, 1, *self.local_size, device="meta"), backbone.config.image_size
            )
        self.register_buffer("center", torch.zeros(1, config.outputs))
        add_progress(self)
        # Sums over all micro-batches of a step, for the update of the center.
        self.register_buffer("batch_sum", torch.zeros(1, config.outputs), persistent=False)
        self.register_buffer("batch_count", torch.zeros(()), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "DINO":
        """Sets training or evaluation mode for the student. The teacher stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        self.teacher_head.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss`, its terms `entropy` and `kl`, and the effective rank `rank`, which reveals a collapse.

        `entropy` is that of the teacher's predictions (0: always one output; log K: uniform), `kl` the divergence of
        the student's from them. A `kl` near 0 with a constant `entropy` is a collapse. `rank` is the effective rank of
        the teacher's representations.
        """
        global_views, local_views = self.views(batch.images)
        with torch.no_grad():
            vectors = self.backbone.represent(self.backbone.features(torch.cat(global_views)))
            teacher_logits = self.teacher_head(vectors).float()
            self.batch_sum += teacher_logits.sum(dim=0, keepdim=True)
            self.batch_count += teacher_logits.shape[0]
            temperature = teacher_temperature(self.config, self.epoch)
            teacher = ((teacher_logits - self.center) / temperature).softmax(dim=1).unflatten(0, (2, -1))
        represented = [
            self.student.represent(self.student.features(torch.cat(views)))
            for views in (global_views, local_views)
            if views
        ]
        logits = self.student_head(torch.cat(represented), frozen=self.epoch < self.config.freeze_epochs).float()
        student = (logits / self.config.student_temperature).log_softmax(dim=1).unflatten(0, (2 + len(local_views), -1))
        loss = dino_loss(teacher, student)
        entropy = -torch.xlogy(teacher, teacher).sum(dim=2).mean()
        return {"loss": loss, "entropy": entropy, "kl": loss.detach() - entropy, "rank": effective_rank(vectors)}

    def views(
        self, images: Float[Tensor, "b c height width"]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], list[Float[Tensor, "b c _ _"]]]:
        """Returns augmented random crops of each image: two global views and several local views.

        Views are cropped, flipped and color-augmented at random; the probability of blur is 1 and 0.1 for the global
        views and 0.5 for the local ones.
        """
        config = self.config
        crops = [random_crops(images, self.size, config.global_scale) for _ in range(2)]
        first = augment_colors(crops[0], config.colors, blur_probability=1.0)
        second = augment_colors(crops[1], config.colors, blur_probability=0.1, solarize_probability=0.2)
        local = [
            augment_colors(
                random_crops(images, self.local_size, config.local_scale), config.colors, blur_probability=0.5
            )
            for _ in range(config.local_crops)
        ]
        return [first, second], local

    @property
    def epoch(self) -> int:
        """Index of the current epoch, from 0 to `config.epochs` - 1."""
        # The tolerance covers float32 rounding of values such as 29/100.
        return min(self.config.epochs - 1, math.floor(self.done * self.config.epochs + 1e-4))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Updates the teacher (EMA of the student's weights) and the center (EMA of the mean teacher logits)."""
        momentum = teacher_momentum(self.config, self.done)
        for teacher, student in ((self.backbone, self.student), (self.teacher_head, self.student_head)):
            for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(other, 1 - momentum)
            for mine, other in zip(teacher.buffers(), student.buffers(), strict=True):
                mine.copy_(other)
        mean = distributed.mean(self.batch_sum) / distributed.mean(self.batch_count)
        self.center.lerp_(mean, 1 - self.config.center_momentum)
        self.batch_sum.zero_()
        self.batch_count.zero_()
        set_progress(self, progress)


def dino_loss(teacher: Float[Tensor, "t b k"], student: Float[Tensor, "v b k"]) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy of student predictions, with teacher predictions on other views as targets.

    All pairs of a teacher's view and another view of the student count. As a loop: for t in teacher, for v in student,
    if t is not v: -(teacher[t] * student[v]).sum(k); then the mean over b and pairs. The teacher's views are the first
    ones of the student.
    """
    pairs = -torch.einsum("t b k, v b k -> t v", teacher, student) / teacher.shape[1]
    return (pairs.sum() - pairs.diagonal().sum()) / (pairs.numel() - teacher.shape[0])


def teacher_temperature(config: Config, epoch: int) -> float:
    """Returns the softmax temperature of the teacher in an epoch: a linear warm-up, then a constant."""
    first, last = config.teacher_temperatures
    if epoch >= config.temperature_epochs:
        return last
    return first + (last - first) * epoch / max(1, config.temperature_epochs - 1)


def teacher_momentum(config: Config, progress: float) -> float:
    """Returns the momentum of the teacher's EMA, after the fraction `progress` of the run."""
    return 1 - (1 - config.momentum) * (math.cos(math.pi * progress) + 1) / 2


def effective_rank(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Returns the effective rank of vectors: (trace C)^2 / trace(C^2), where C is the covariance of the vectors."""
    centered = (vectors - vectors.mean(dim=0)).float()
    gram = centered @ centered.T if vectors.shape[0] < vectors.shape[1] else centered.T @ centered
    return gram.trace().square() / gram.square().sum().clamp_min(torch.finfo(gram.dtype).tiny)


def _local_size(size: Sequence[int], backbone: Backbone) -> tuple[int, int]:
    patch = getattr(backbone.config, "patch_size", (16, 16))
    rows, columns = (max(1, round(3 * side / 7 / each)) * each for side, each in zip(size, patch, strict=True))
    return rows, columns


def build(config: Config, backbone: Backbone) -> DINO:
    """Builds the DINO objective, and loads a full checkpoint of DINO's training if the config names one."""
    objective = DINO(config, backbone)
    if config.start:
        # All but the progress of the run and the classification heads, which DINO's files do not have.
        heads = [f"{part}.{name}" for part in ("student", "backbone") for name in backbone.head_parameters()]
        parts = [name for name in objective.state_dict() if name not in ("progress", *heads)]
        load_into(objective, config.start, parts, LAYOUTS, what="DINO's student, teacher, heads and center")
    return objective
