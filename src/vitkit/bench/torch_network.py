"""What every peer that is a torch module shares: placing it, compiling it, one pass and one step of training."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.bench import Contender, Job, Prepared
from vitkit.bench.roofline import synchronise

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
STEPS_COMPARED = 3
RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
Logits = Callable[[Tensor], Tensor]


def pictures(job: Job) -> Float[np.ndarray, "b c h w"]:
    """The batch that every contender gets: normal noise, as if normalised."""
    size = (job.batch, 3, *job.image_size)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


def targets(job: Job) -> np.ndarray:
    """The class of each picture of the batch."""
    return np.random.default_rng(1).integers(0, job.classes, job.batch)


def start(job: Job) -> torch.device:
    """Sets the threads and gives the device."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    return torch.device(job.device)


def compiled(module: Any, contender: Contender) -> Any:
    """The module, compiled where the contender's setting `compile` names a mode of torch.compile."""
    mode = contender.setting("compile", "none")
    if mode == "none":
        return module
    if mode not in MODES:
        raise ValueError(f"unknown setting compile={mode}; there is none, {', '.join(MODES)}")
    return torch.compile(module, mode=mode)


def passes(job: Job, contender: Contender, module: nn.Module, logits: Callable[[Any], Tensor]) -> Prepared:
    """Inference by a torch module: weights and pictures in the precision, or float32 weights under `autocast=true`."""
    device, dtype = start(job), getattr(torch, contender.precision)
    cast = contender.setting("autocast") == "true"
    placed = module.eval().to(device) if cast else module.eval().to(device, dtype)
    batch = torch.from_numpy(pictures(job)).to(device, torch.float32 if cast else dtype)
    call = compiled(placed, contender)

    def once() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if cast else nullcontext():
            return logits(call(batch))

    return ready(job, once, device, {"how": "autocast" if cast else "weights cast"})


def ready(job: Job, once: Callable[[], Tensor], device: torch.device, notes: dict[str, str]) -> Prepared:
    """A forward pass as a contender: each run is over when the device says so."""
    # Copied at once: with CUDA graphs the next pass writes over this one's output.
    outputs = once().float().cpu().numpy().copy()

    def run() -> None:
        once()
        synchronise(device)

    return Prepared(run=run, items=job.batch, outputs=outputs, notes=notes)


def steps(job: Job, contender: Contender, module: nn.Module, logits: Callable[[Any], Tensor]) -> Prepared:
    """Steps of training as they are written by hand: AdamW, clipping, autocast where the precision is not float32."""
    device, low = start(job), contender.precision != "float32"
    module = module.to(device).train()
    call = compiled(module, contender)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    batch = torch.from_numpy(pictures(job)).to(device)
    classes = torch.from_numpy(targets(job)).to(device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, getattr(torch, contender.precision)) if low else nullcontext():
            loss = F.cross_entropy(logits(call(batch)).float(), classes)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    losses = np.array([step() for _ in range(STEPS_COMPARED)], np.float32)
    return Prepared(run=step, items=job.batch, outputs=losses, notes={"optimizer": "torch AdamW, fused"})
