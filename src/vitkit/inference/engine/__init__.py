"""Engine: a model made fast for inference, checked against the model in float32 before it is used.

`accelerate` picks a path (`path.paths`) for the machine at hand, makes a copy of the model whose parts are fused and
packed (`fuse.fused`), compares it with the original on a probe picture, and goes to the next path where it differs too
much or fails. The model itself is not touched. What the engine does not know (a new kind of layer) stays as it is.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.inference.engine import quantization
from vitkit.inference.engine.blocks import attention_way, is_plain
from vitkit.inference.engine.dense import Float8Dense
from vitkit.inference.engine.fuse import Recipe, fused, mergeable, special_read
from vitkit.inference.engine.machine import Machine, machine
from vitkit.inference.engine.merging import Merging, Reduction, schedule
from vitkit.inference.engine.path import PRECISIONS, TYPES, Path, answers, difference, paths, probe
from vitkit.inference.engine.path import compiled as compiled_ways
from vitkit.layers import Block, Features
from vitkit.models import Backbone, TokenBackbone

__all__ = ["PRECISIONS", "Engine", "Fast", "Machine", "Path", "accelerate", "machine", "paths"]

# Pictures in one go through the network on a CPU: what fills the products and still stays near the cache.
CHUNK = 8
# How many pictures of those there are a path is compared with float32 on.
JUDGED = 4


@dataclass(frozen=True)
class Engine:
    """A network that is ready: `model` runs float32 pictures in `precision`; `statement` says why, and how far off."""

    model: Backbone
    precision: str
    fused: bool
    difference: float
    statement: str


class Fast(Backbone):
    """A fast network behind the interface of the model it was made of; it takes pictures of any floating type.

    Batches go through in chunks, whose results are the same whatever the size of the batch. Where the head reads
    special tokens alone, `features` has these only and the patches are missing. `original` is the model it was made of,
    for whoever wants to look inside.
    """

    original: Backbone

    def __init__(self, network: Backbone, original: Backbone, path: Path, *, dtype: torch.dtype, chunk: int | None):
        super().__init__()
        # Not a part of this module: it is neither switched nor moved with it.
        object.__setattr__(self, "original", original)
        self.precision = path.precision
        self.network = network
        self.config = network.config
        self.width = network.width
        self.dtype = dtype
        self.chunk = chunk
        self.compiled = path.compiled
        self._run = network.features
        if path.compiled:
            # On a GPU with CUDA graphs and the fastest of several kernels for every product.
            mode = "max-autotune" if next(original.parameters()).device.type == "cuda" else None
            self._run = torch.compile(network.features, dynamic=False, mode=mode)
        self.eval()

    @property
    def pool_width(self) -> int:
        """That of the network."""
        return self.network.pool_width

    def features(self, images: Float[Tensor, "b c height width"]) -> Features:
        """The tokens of the images, chunk by chunk."""
        images = images.to(self.dtype)
        if not images.shape[0]:
            # Products of nothing are refused by some kernels: none of the tokens of one picture.
            return self.features(images.new_zeros(1, *images.shape[1:])).each(lambda tensor: tensor[:0])
        if self.chunk is None or images.shape[0] <= self.chunk:
            return self._part(images)
        parts = [self._part(part) for part in images.split(self.chunk)]
        return Features.join(parts)

    def _part(self, images: Tensor) -> Features:
        if not self.compiled or self.chunk is None:
            return self._run(images)
        # Compiled for one size and one kind of tensor: a batch that is not full has zeros behind it.
        count = images.shape[0]
        if count < self.chunk or images.is_inference() != torch.is_inference_mode_enabled():
            images = torch.cat([images, images.new_zeros(self.chunk - count, *images.shape[1:])])
        torch.compiler.cudagraph_mark_step_begin()
        found = self._run(images)
        # A copy: the next run of a CUDA graph writes where this one did.
        return found.each(lambda tensor: tensor[:count].clone())

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """That of the network."""
        return self.network.represent(features)

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """That of the network."""
        return self.network.logits(features)

    def init_weights(self) -> None:
        """Not for a network whose weights are packed: RuntimeError."""
        raise RuntimeError("a fast network has the weights of the model it was made of: initialise that one")


def accelerate(
    model: Backbone,
    *,
    precision: str = "auto",
    merge: Reduction = 0,
    proportional: bool = True,
    pictures: Callable[[], Float[Tensor, "b c rows columns"]] | None = None,
    compiled: int = 0,
) -> Engine:
    """The fastest path that is allowed, works, and is near enough to `model` in float32 on its device.

    `merge` is how many tokens every block merges away (see `merging.schedule`), `proportional` whether attention then
    minds their sizes. `pictures` gives normalised pictures to calibrate 8-bit layers on, if that path is tried.
    `compiled` is how many pictures a batch torch's compiler makes the network for, 0 for not: minutes of waiting before
    the first one. Raises ValueError where the precision asked for is not to be had: unknown, not on this machine, or
    too far off; and for what cannot be compiled.
    """
    here = machine(next(model.parameters()).device)
    merging = merge not in (0, [])
    if merging and not mergeable(model):
        raise ValueError("tokens can be merged in plain encoder blocks with positions added before the first one only")
    images = probe(model)
    refused: list[str] = []
    ways = paths(precision, here, model, merging=merging)
    if compiled and merging:
        raise ValueError("merging tokens is not for torch's compiler: choose one of them")
    for path in compiled_ways(ways, here) if compiled else ways:
        if not path.fused and path.precision == "float32" and not compiled:
            return Engine(model, "float32", False, 0.0, _sentence(path, 0.0, refused))
        if path.precision == "int8" and pictures is not None:
            # Ranges seen on photos are not made for noise.
            images = pictures()
        exact = answers(model, images[:JUDGED])
        try:
            base, recipe = _recipe(model, path, here, images)
            network = _network(model, base, recipe, path, compiled)
            off = difference(exact, answers(network, images[:JUDGED]))
        except RuntimeError as error:
            refused.append(f"{path.words} failed ({str(error).splitlines()[0][:120]})")
            continue
        if off > path.bound:
            refused.append(f"{path.words} was off by {off:.1%}, more than the {path.bound:.1%} allowed")
            continue
        words = _sentence(path, off, refused)
        if merging:
            network = _network(model, base, replace(recipe, merging=_merging(model, merge, proportional, images)), path)
            changed = difference(exact, answers(network, images[:JUDGED]))
            words += f"; merging tokens ({merge} a block) changes it by {changed:.1%} more or less"
        return Engine(network, path.precision, path.fused, off, words)
    raise ValueError(f"{precision} cannot be used with this model here: {'; '.join(refused)}")


def _recipe(model: Backbone, path: Path, here: Machine, images: Tensor) -> tuple[Backbone, Recipe]:
    """What the copy is made of, and how: for 8-bit layers a smoothed twin, and the ranges of their inputs."""
    on_cpu = images.device.type == "cpu"
    brief = path.precision == "float8" or (path.precision == "int8" and here.bfloat16)
    inner = torch.bfloat16 if brief else TYPES.get(path.precision, torch.float32)
    recipe = Recipe(
        dtype=torch.float32 if path.precision == "int8" else inner,
        inner=inner,
        packed=here.packs and on_cpu,
        way=attention_way(here, inner),
        mixed=on_cpu,
        depth=len(model.blocks),
        keep=special_read(model, images),
        float8=path.precision == "float8",
    )
    if path.precision != "int8":
        return model, recipe
    watched = fused(model, replace(recipe, dtype=inner))
    notes = quantization.watch(watched)
    if not notes:
        raise RuntimeError("it has no dense layers in blocks")
    with torch.inference_mode():
        for part in images.split(CHUNK):
            watched(part)
    # Outside of inference mode, whose tensors no copy could change.
    notes = {name: note.outside() for name, note in notes.items()}
    base, divisors = copy.deepcopy(model).requires_grad_(False), {}
    for number, twin in enumerate(base.blocks):
        if isinstance(twin, Block) and is_plain(twin):
            divisors |= quantization.smooth(twin, f"blocks.{number}", notes)
    return base, replace(recipe, ranges={name: note.range(divisors.get(name)) for name, note in notes.items()})


def _network(model: Backbone, base: Backbone, recipe: Recipe, path: Path, compiled: int = 0) -> Fast:
    if not path.fused:
        network = copy.deepcopy(base).eval().requires_grad_(False).to(recipe.dtype)
        return Fast(network, model, path, dtype=recipe.dtype, chunk=compiled or None)
    chunk = compiled if compiled else CHUNK if next(base.parameters()).device.type == "cpu" else None
    network = fused(base, recipe)
    if recipe.float8 and not any(isinstance(module, Float8Dense) for module in network.modules()):
        raise RuntimeError("it has no dense layers in blocks")
    return Fast(network, model, path, dtype=torch.float32, chunk=chunk)


def _merging(model: Backbone, merge: Reduction, proportional: bool, images: Tensor) -> Merging:
    if not isinstance(model, TokenBackbone):
        raise ValueError("a model without tokens has none to merge")
    with torch.inference_mode():
        num_special = model.embed(images[:1]).num_special
    return Merging(schedule(merge, len(model.blocks)), num_special, proportional=proportional)


def _sentence(path: Path, off: float, refused: list[str]) -> str:
    exact = path.precision == "float32" and not (path.fused or path.compiled)
    said = "exact" if exact else f"off float32 by {off:.2%} of its spread"
    return f"{path.words}: {path.why}; {said}" + "".join(f"; {reason}" for reason in refused)
