"""The linear protocol of DINO and DINOv2: a dense layer, learned by SGD, on frozen features of the last blocks.

Features are the class token of the last blocks, each behind the final norm, one beside the other, with or without the
mean patch of the last (Caron et al. 2021, section 4.1; Oquab et al. 2023, appendix B.3). As there, all learning rates
learn side by side, from the same batches. Unlike there, pictures are seen once and without random crops, and the rate,
the blocks and the mean patch are chosen by a fifth of the training pictures, not by those that are judged.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.data.loader import Batch
from vitkit.evaluate import Subject, probe, right
from vitkit.models import Backbone, TokenBackbone

READS = "representations"
BLOCKS = 4
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)  # for a batch of 256
BATCH = 128
EPOCHS = 100
MOST_STEPS = 12_500
MOMENTUM = 0.9
SEED = 0


@dataclass(frozen=True)
class Frozen:
    """The features of pictures that have a label, and their true classes; the last of `blocks` is the last block's."""

    blocks: Float[Tensor, "n blocks d"]
    patches: Float[Tensor, "n d"]
    targets: Float[Tensor, "n classes"]

    def vectors(self, count: int, mean_patch: bool) -> Float[Tensor, "n width"]:
        """The last `count` blocks' tokens in their order, and the mean patch."""
        tokens = rearrange(self.blocks[:, -count:], "n b d -> n (b d)")
        return torch.cat([tokens, self.patches], dim=1) if mean_patch else tokens


def evaluate(subject: Subject, blocks: str = str(BLOCKS)) -> dict[str, float]:
    """`accuracy`, `top5` where there are more than five classes, the `rate`, number of `blocks` and `mean_patch` (0 or
    1) that did best on the training pictures held out, and their accuracy `held_out`.

    `blocks` is how many of the last blocks are tried beside the last alone. Raises ValueError for another word, for a
    model without blocks over tokens, and where no training pictures were given.
    """
    if not blocks.isdecimal() or int(blocks) < 1:
        raise ValueError(f"linear takes a number of blocks, as in linear:4, not '{blocks}'")
    if subject.training is None:
        raise ValueError("linear learns from labelled pictures, and no training pictures were given")
    training, judged = (freeze(subject.exact, each(), int(blocks)) for each in (subject.training, subject.batches))
    labels, num_classes = training.targets.argmax(dim=1), training.targets.shape[1]
    kept, held = probe.split(labels)
    tried: list[tuple[float, int, bool, float]] = []
    for count in sorted({1, min(int(blocks), training.blocks.shape[1])}):
        for mean_patch in (False, True):
            x = training.vectors(count, mean_patch).to(subject.device)
            heads = learn(x[kept], labels[kept].to(x.device), num_classes, RATES)
            for rate, logits in zip(RATES, heads(x[held]), strict=True):
                tried.append((right(logits.argmax(dim=1).cpu(), training.targets[held]), count, mean_patch, rate))
    score, count, mean_patch, rate = max(tried, key=lambda each: each[0])  # of equals, the first
    x, z = (each.vectors(count, mean_patch).to(subject.device) for each in (training, judged))
    logits = learn(x, labels.to(x.device), num_classes, [rate])(z)[0].cpu()
    found = {"accuracy": right(logits.argmax(dim=1), judged.targets)}
    if num_classes > 5:
        hits = judged.targets.gather(1, logits.topk(5, dim=1).indices) > 0
        found["top5"] = hits.any(dim=1).double().mean().item()
    return found | {"rate": rate, "blocks": float(count), "mean_patch": float(mean_patch), "held_out": score}


@dataclass(frozen=True)
class Heads:
    """Dense layers on the same features, one for each learning rate."""

    weight: Float[Tensor, "rates classes d"]
    bias: Float[Tensor, "rates classes"]

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "rates n classes"]:
        """Logits."""
        return torch.einsum("n d, r c d -> r n c", x, self.weight) + self.bias[:, None]


def learn(x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, rates: Sequence[float]) -> Heads:
    """The layers after SGD with momentum, no weight decay, each rate falling to 0 on a cosine; start N(0, 0.01).

    The same batches in the same order for all rates: each layer is what it would be alone.
    """
    random = torch.Generator().manual_seed(SEED)
    start = torch.randn(num_classes, x.shape[1], generator=random).to(x) * 0.01
    heads = Heads(start.repeat(len(rates), 1, 1), x.new_zeros(len(rates), num_classes))
    speed = Heads(torch.zeros_like(heads.weight), torch.zeros_like(heads.bias))
    peak = x.new_tensor(rates)[:, None] * BATCH / 256
    truth = torch.eye(num_classes, device=x.device, dtype=x.dtype)[labels]
    steps = min(MOST_STEPS, EPOCHS * math.ceil(x.shape[0] / BATCH))
    for step, rows in zip(range(steps), orders(x.shape[0], random), strict=False):
        seen = x[rows.to(x.device)]
        error = (heads(seen).softmax(dim=2) - truth[rows.to(x.device)]) / seen.shape[0]
        speed.weight.mul_(MOMENTUM).add_(torch.einsum("r n c, n d -> r c d", error, seen))
        speed.bias.mul_(MOMENTUM).add_(error.sum(dim=1))
        rate = peak * (1 + math.cos(math.pi * step / steps)) / 2
        heads.weight.sub_(rate[..., None] * speed.weight)
        heads.bias.sub_(rate * speed.bias)
    return heads


def orders(num: int, random: torch.Generator) -> Iterator[Int[Tensor, " rows"]]:
    """Rows of batches without end, every epoch in another order."""
    while True:
        yield from torch.randperm(num, generator=random).split(BATCH)


def freeze(model: Backbone, batches: Iterable[Batch], count: int) -> Frozen:
    """The features of the last `count` blocks (of all, where there are fewer) of every picture that has a label."""
    if not isinstance(model, TokenBackbone):
        raise ValueError(f"linear reads the last blocks, and {type(model).__name__} has none over tokens: use probe")
    parameter, training = next(model.parameters()), model.training
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                labelled = batch.targets.sum(dim=1) > 0
                images = batch.images[labelled].to(parameter.device, parameter.dtype)
                if images.shape[0]:
                    rows.append((*block_vectors(model, images, count), batch.targets[labelled]))
    finally:
        model.train(training)
    if not rows:
        raise ValueError("none of the pictures has a label")
    blocks, patches, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Frozen(blocks, patches, targets)


def block_vectors(
    model: TokenBackbone, images: Float[Tensor, "b c height width"], count: int
) -> tuple[Float[Tensor, "b blocks d"], Float[Tensor, "b d"]]:
    """The class token (the mean patch, where there is none) of the last blocks behind the norm, and the last's mean
    patch; in float32 on the CPU.
    """
    kept: list[Tensor] = []

    def keep(block: nn.Module, args: Any, out: Tensor) -> None:
        kept.append(out)

    handles = [block.register_forward_hook(keep) for block in model.blocks[-count:]]
    try:
        features = model.features(images)
    finally:
        for handle in handles:
            handle.remove()
    norm = getattr(model, "norm", nn.Identity())
    tokens = [features.with_tokens(norm(each)) for each in kept]
    vectors = [each.class_token if each.num_special else each.patches.mean(dim=1) for each in tokens]
    return torch.stack(vectors, dim=1).float().cpu(), features.patches.mean(dim=1).float().cpu()
