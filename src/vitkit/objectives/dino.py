"""Self-distillation without labels: agreeing with one's own running mean across views (DINO, Caron et al. 2021)."""

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
from vitkit.models import Backbone
from vitkit.objectives import Objective, keep_progress, load_into, set_progress

MODELS = (("student", "student"), ("backbone", "teacher"))  # here, and in files
# A full checkpoint: two models, two heads, and the loss's centre.
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
    """Views, head and schedules. `epochs` is what the run is counted in: the other epochs are shares of it.

    Two global crops of the model's own size and `local_crops` small ones (`local_size` rows and columns, None for 3/7
    of the model's in whole patches: 96 of 224), each of a share of the picture's area. `outputs` is K, the number of
    prototypes; with `fixed_norm` all have length 1. The teacher's temperature goes in equal steps, one an epoch, from
    the first to the second of `teacher_temperatures`, reached in the last of `temperature_epochs`. The last layer rests
    for `freeze_epochs`. The teacher's `momentum` goes to 1 on a cosine: what it starts from is a memory of
    1 / (1 - momentum) steps, which must be short beside the run. Defaults are the published code's. `start` is a full
    checkpoint of DINO's, from whose student, teacher, heads and centre this goes on.
    """

    outputs: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    fixed_norm: bool = True
    local_crops: int = 8
    local_size: tuple[int, int] | None = None
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    colours: ColorAugmentation = field(default_factory=ColorAugmentation)
    epochs: int = 100
    student_temperature: float = 0.1
    teacher_temperatures: tuple[float, float] = (0.04, 0.04)
    temperature_epochs: int = 0
    freeze_epochs: int = 1
    momentum: float = 0.996
    center_momentum: float = 0.9
    start: str = ""

    def __post_init__(self) -> None:
        """Refuses what collapses or cannot be counted."""
        for name, least in (("outputs", 2), ("hidden", 1), ("bottleneck", 1), ("epochs", 1), ("local_crops", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("momentum", "center_momentum"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if min(self.student_temperature, *self.teacher_temperatures) <= 0.0:
            raise ValueError("temperatures must be above 0")


class Head(nn.Module):
    """A representation to K logits: an MLP of three layers, length 1, and a layer of weight-normalised prototypes."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        sizes = (width, config.hidden, config.hidden, config.bottleneck)
        layers = [nn.Linear(inner, outer) for inner, outer in pairwise(sizes)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.last_layer = Prototypes(config.bottleneck, config.outputs, fixed_norm=config.fixed_norm)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b d"], *, rest: bool = False) -> Float[Tensor, "b k"]:
        """The logits; with `rest` the last layer gets no gradient, so that no optimiser touches it."""
        return self.last_layer(F.normalize(self.mlp(x).float(), dim=1), rest=rest)


class DINO(Objective):
    """`student` and its head learn; `backbone` is the teacher, which is the better model and the one that is kept.

    `progress` is how much of the run is over: all schedules are functions of it. Raises ValueError for a model that
    gives no one vector a picture.
    """

    center: Tensor
    batch_sum: Tensor
    batch_count: Tensor

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if getattr(backbone.config, "pool", "") == "none":
            raise ValueError("DINO compares one vector a picture: pool cannot be 'none'")
        channels = backbone.config.channels
        if not len(config.colours.mean) == len(config.colours.std) == channels:
            raise ValueError(f"colours.mean and std need {channels} numbers, one for each channel of the model")
        self.config = config
        self.student = backbone
        self.student_head = Head(getattr(backbone.config, "pre_logits", 0) or backbone.pool_width, config)
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.size: tuple[int, int] = tuple(backbone.config.image_size)
        self.local_size = config.local_size or _three_sevenths(self.size, backbone)
        self.register_buffer("center", torch.zeros(1, config.outputs))
        keep_progress(self)
        # What the batch, in parts or whole, adds to the centre after the step.
        self.register_buffer("batch_sum", torch.zeros(1, config.outputs), persistent=False)
        self.register_buffer("batch_count", torch.zeros(()), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "DINO":
        """The student's mode; the teacher stays in evaluation mode: nothing of it is dropped."""
        super().train(mode)
        self.backbone.eval()
        self.teacher_head.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`, which is `entropy` + `kl`, and what tells a collapse.

        `entropy` of the teacher's answers (0: always the same one; log K: always all) and `kl` from them to the
        student's; both near 0 or constant is a collapse. `rank` is how many directions the teacher's vectors fill.
        """
        everything, local = self.views(batch.images)
        with torch.no_grad():
            vectors = self.backbone.represent(self.backbone.features(torch.cat(everything)))
            taught = self.teacher_head(vectors).float()
            self.batch_sum += taught.sum(dim=0, keepdim=True)
            self.batch_count += taught.shape[0]
            temperature = teacher_temperature(self.config, self.epoch)
            teacher = ((taught - self.center) / temperature).softmax(dim=1).unflatten(0, (2, -1))
        read = [
            self.student.represent(self.student.features(torch.cat(views))) for views in (everything, local) if views
        ]
        logits = self.student_head(torch.cat(read), rest=self.epoch < self.config.freeze_epochs).float()
        student = (logits / self.config.student_temperature).log_softmax(dim=1).unflatten(0, (2 + len(local), -1))
        loss = dino_loss(teacher, student)
        entropy = -torch.xlogy(teacher, teacher).sum(dim=2).mean()
        return {"loss": loss, "entropy": entropy, "kl": loss.detach() - entropy, "rank": filled_directions(vectors)}

    def views(
        self, images: Float[Tensor, "b c height width"]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], list[Float[Tensor, "b c _ _"]]]:
        """Two global views and the local ones: crop, mirror, colours; blur always, seldom, or for half."""
        config = self.config
        crops = [random_crops(images, self.size, config.global_scale) for _ in range(2)]
        first = augment_colors(crops[0], config.colours, blur_probability=1.0)
        second = augment_colors(crops[1], config.colours, blur_probability=0.1, solarize_probability=0.2)
        local = [
            augment_colors(
                random_crops(images, self.local_size, config.local_scale), config.colours, blur_probability=0.5
            )
            for _ in range(config.local_crops)
        ]
        return [first, second], local

    @property
    def epoch(self) -> int:
        """The number of the current epoch of `config.epochs`."""
        # A float32 such as 29/100 falls short of its epoch by less than this.
        return min(self.config.epochs - 1, math.floor(self.done * self.config.epochs + 1e-4))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student, and the centre towards the batch's mean."""
        share = teacher_momentum(self.config, self.done)
        for teacher, student in ((self.backbone, self.student), (self.teacher_head, self.student_head)):
            for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(other, 1 - share)
            for mine, other in zip(teacher.buffers(), student.buffers(), strict=True):
                mine.copy_(other)
        mean = distributed.mean(self.batch_sum) / distributed.mean(self.batch_count)
        self.center.lerp_(mean, 1 - self.config.center_momentum)
        self.batch_sum.zero_()
        self.batch_count.zero_()
        set_progress(self, progress)


def dino_loss(teacher: Float[Tensor, "t b k"], student: Float[Tensor, "v b k"]) -> Float[Tensor, ""]:
    """The cross-entropy of the student's log-probabilities under the teacher's, over all pairs of different views.

    for t in teacher: for v in student: if t is not v: -(teacher[t] * student[v]).sum(k); the mean over b and pairs.
    The teacher's views are the student's first.
    """
    pairs = -torch.einsum("t b k, v b k -> t v", teacher, student) / teacher.shape[1]
    return (pairs.sum() - pairs.diagonal().sum()) / (pairs.numel() - teacher.shape[0])


def teacher_temperature(config: Config, epoch: int) -> float:
    """The teacher's temperature in an epoch: equal steps, both ends included, then the last."""
    first, last = config.teacher_temperatures
    if epoch >= config.temperature_epochs:
        return last
    return first + (last - first) * epoch / max(1, config.temperature_epochs - 1)


def teacher_momentum(config: Config, progress: float) -> float:
    """The share of itself that the teacher keeps after the step that starts at that progress."""
    return 1 - (1 - config.momentum) * (math.cos(math.pi * progress) + 1) / 2


def filled_directions(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How evenly vectors spread: (trace C)^2 / trace(C^2) of their covariance C; 1 for a line, up to min(n - 1, d)."""
    centred = (vectors - vectors.mean(dim=0)).float()
    gram = centred @ centred.T if vectors.shape[0] < vectors.shape[1] else centred.T @ centred
    return gram.trace().square() / gram.square().sum().clamp_min(torch.finfo(gram.dtype).tiny)


def _three_sevenths(size: Sequence[int], backbone: Backbone) -> tuple[int, int]:
    patch = getattr(backbone.config, "patch_size", (16, 16))
    rows, columns = (max(1, round(3 * side / 7 / each)) * each for side, each in zip(size, patch, strict=True))
    return rows, columns


def build(config: Config, backbone: Backbone) -> DINO:
    """The objective around a backbone, or as the full checkpoint has it that the config names."""
    objective = DINO(config, backbone)
    if config.start:
        # The state but for the progress of the run, and for heads that classify, which DINO has not.
        heads = [f"{part}.{name}" for part in ("student", "backbone") for name in backbone.head_parameters()]
        parts = [name for name in objective.state_dict() if name not in ("progress", *heads)]
        load_into(objective, config.start, parts, LAYOUTS, what="DINO's student, teacher, heads and centre")
    return objective
