"""Linear evaluation on frozen features of the last blocks, as in DINO and DINOv2.

Features are the class tokens of the last blocks after the final norm, concatenated, with or without the mean patch
token of the last block (Caron et al. 2021, section 4.1; Oquab et al. 2023, appendix B.3). As in the original, all
learning rates are trained in parallel on the same batches. There are two differences: features are computed once,
without random crops, and the learning rate, the blocks and the mean patch token are chosen on a fifth of the training
images instead of the test images.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.data.loader import Batch
from vitkit.evaluation import ModelOutputs, accuracy, probe
from vitkit.evaluation.requirements import EvaluationData, top5
from vitkit.layers import eval_mode
from vitkit.models import Backbone, TokenBackbone

READS = "representations"
BLOCKS = 4
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)  # for batch size 256
BATCH = 128
EPOCHS = 100
MAX_STEPS = 12_500
MOMENTUM = 0.9
SEED = 0


@dataclass(frozen=True)
class FrozenFeatures:
    """Frozen features of labeled images: class tokens of the last blocks, and the mean patch token.

    `blocks` are in the order of the model.
    """

    blocks: Float[Tensor, "n blocks d"]
    patches: Float[Tensor, "n d"]
    targets: Float[Tensor, "n classes"]

    def vectors(self, count: int, mean_patch: bool) -> Float[Tensor, "n width"]:
        """Returns the concatenated class tokens of the last `count` blocks.

        With `mean_patch`, the mean patch token is appended.
        """
        tokens = rearrange(self.blocks[:, -count:], "n b d -> n (b d)")
        return torch.cat([tokens, self.patches], dim=1) if mean_patch else tokens


def check(data: EvaluationData, blocks: str = str(BLOCKS)) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError for an invalid model, `blocks` or dataset."""
    check_blocks(data.original_model, blocks)
    data.check_split()
    return ("accuracy", *top5(data), "rate", "blocks", "mean_patch", "held_out")


def check_blocks(model: Backbone, blocks: str) -> TokenBackbone:
    """Returns the model as a `TokenBackbone`.

    Raises ValueError for other models, and if `blocks` is not a positive number.
    """
    if not blocks.isdecimal() or int(blocks) < 1:
        raise ValueError(
            f"the argument of the evaluator linear is '{blocks}'; expected a number of blocks, as in linear:4"
        )
    if model.is_exported:
        raise ValueError(
            "the evaluator linear needs the outputs of encoder blocks, which an exported model does not return; "
            "load the original checkpoint instead, or use probe"
        )
    if not isinstance(model, TokenBackbone):
        raise ValueError(f"the evaluator linear needs encoder blocks, but {type(model).__name__} has none; use probe")
    return model


def evaluate(subject: ModelOutputs, blocks: str = str(BLOCKS)) -> dict[str, float]:
    """Returns `accuracy`, `top5` (for more than five classes), and the settings chosen on held-out images.

    The settings are the learning `rate`, the number of `blocks` and `mean_patch` (0 or 1) with the best accuracy on the
    held-out training images, `held_out`. The argument `blocks` is the number of last blocks to try in addition to the
    last block alone. Raises ValueError if it is not a number, for a model without encoder blocks, and without training
    images.
    """
    model = check_blocks(subject.original_model, blocks)
    if subject.training is None:
        raise ValueError("the evaluator linear needs labeled training images, but none were given")
    training, test = (extract_features(model, each(), int(blocks)) for each in (subject.training, subject.batches))
    labels, num_classes = training.targets.argmax(dim=1), training.targets.shape[1]
    train_rows, held_out_rows = probe.split(labels)
    tried: list[tuple[float, int, bool, float]] = []
    for count in sorted({1, min(int(blocks), training.blocks.shape[1])}):
        for mean_patch in (False, True):
            x = training.vectors(count, mean_patch).to(subject.device)
            heads = train_heads(x[train_rows], labels[train_rows].to(x.device), num_classes, RATES)
            for rate, logits in zip(RATES, heads(x[held_out_rows]), strict=True):
                score = accuracy(logits.argmax(dim=1).cpu(), training.targets[held_out_rows])
                tried.append((score, count, mean_patch, rate))
    score, count, mean_patch, rate = max(tried, key=lambda each: each[0])  # if scores are equal, the first
    x, z = (each.vectors(count, mean_patch).to(subject.device) for each in (training, test))
    logits = train_heads(x, labels.to(x.device), num_classes, [rate])(z)[0].cpu()
    metrics = {"accuracy": accuracy(logits.argmax(dim=1), test.targets)}
    if num_classes > 5:
        hits = test.targets.gather(1, logits.topk(5, dim=1).indices) > 0
        metrics["top5"] = hits.any(dim=1).double().mean().item()
    return metrics | {"rate": rate, "blocks": float(count), "mean_patch": float(mean_patch), "held_out": score}


@dataclass(frozen=True)
class Heads:
    """Linear classifiers on the same features, one for each learning rate."""

    weight: Float[Tensor, "rates classes d"]
    bias: Float[Tensor, "rates classes"]

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "rates n classes"]:
        """Returns the logits of every classifier."""
        return torch.einsum("n d, r c d -> r n c", x, self.weight) + self.bias[:, None]


def train_heads(x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, rates: Sequence[float]) -> Heads:
    """Trains one linear classifier for each learning rate, with SGD, momentum and cosine decay to 0.

    Initial weights are sampled from N(0, 0.01), and there is no weight decay. All classifiers see the same batches in
    the same order, so each equals a classifier that is trained alone.
    """
    random = torch.Generator().manual_seed(SEED)
    start = torch.randn(num_classes, x.shape[1], generator=random).to(x) * 0.01
    heads = Heads(start.repeat(len(rates), 1, 1), x.new_zeros(len(rates), num_classes))
    velocity = Heads(torch.zeros_like(heads.weight), torch.zeros_like(heads.bias))
    peak = x.new_tensor(rates)[:, None] * BATCH / 256
    truth = torch.eye(num_classes, device=x.device, dtype=x.dtype)[labels]
    steps = min(MAX_STEPS, EPOCHS * math.ceil(x.shape[0] / BATCH))
    for step, rows in zip(range(steps), batch_indices(x.shape[0], random), strict=False):
        batch = x[rows.to(x.device)]
        error = (heads(batch).softmax(dim=2) - truth[rows.to(x.device)]) / batch.shape[0]
        velocity.weight.mul_(MOMENTUM).add_(torch.einsum("r n c, n d -> r c d", error, batch))
        velocity.bias.mul_(MOMENTUM).add_(error.sum(dim=1))
        rate = peak * (1 + math.cos(math.pi * step / steps)) / 2
        heads.weight.sub_(rate[..., None] * velocity.weight)
        heads.bias.sub_(rate * velocity.bias)
    return heads


def batch_indices(num: int, random: torch.Generator) -> Iterator[Int[Tensor, " rows"]]:
    """Yields the row indices of batches indefinitely, in a new random order for every epoch."""
    while True:
        yield from torch.randperm(num, generator=random).split(BATCH)


def extract_features(model: TokenBackbone, batches: Iterable[Batch], count: int) -> FrozenFeatures:
    """Returns the features of the last `count` blocks for every labeled image."""
    parameter = next(model.parameters())
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    with eval_mode(model), torch.inference_mode():
        for batch in batches:
            labelled = batch.targets.sum(dim=1) > 0
            images = batch.images[labelled].to(parameter.device, parameter.dtype)
            if images.shape[0]:
                rows.append((*block_vectors(model, images, count), batch.targets[labelled]))
    if not rows:
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    blocks, patches, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return FrozenFeatures(blocks, patches, targets)


def block_vectors(
    model: TokenBackbone, images: Float[Tensor, "b c height width"], count: int
) -> tuple[Float[Tensor, "b blocks d"], Float[Tensor, "b d"]]:
    """Returns the normalized class tokens of the last blocks, and the mean patch token of the last block.

    If the model has no class token, the mean patch token of each block is used instead. Tensors are float32 on the CPU.
    """
    outputs: list[Tensor] = []

    def store(block: nn.Module, args: object, out: Tensor) -> None:
        outputs.append(out)

    handles = [block.register_forward_hook(store) for block in model.blocks[-count:]]
    try:
        features = model.features(images)
    finally:
        for handle in handles:
            handle.remove()
    norm = getattr(model, "norm", nn.Identity())
    tokens = [features.with_tokens(norm(each)) for each in outputs]
    vectors = [each.class_token if each.num_special else each.patches.mean(dim=1) for each in tokens]
    return torch.stack(vectors, dim=1).float().cpu(), features.patches.mean(dim=1).float().cpu()
