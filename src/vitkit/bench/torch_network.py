"""Inputs, compilation, forward passes and training steps for all libraries whose models are torch modules."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.bench import Candidate, Job, Prepared
from vitkit.bench.roofline import synchronize

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
STEPS_COMPARED = 3
RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
Logits = Callable[[Tensor], Tensor]


def images(job: Job) -> Float[np.ndarray, "b c h w"]:
    """Returns a batch of standard normal noise, which is the input of all candidates."""
    size = (job.batch, 3, *job.image_size)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


def targets(job: Job) -> np.ndarray:
    """Returns the class labels of the input batch for training."""
    return np.random.default_rng(1).integers(0, job.classes, job.batch)


def set_up(job: Job) -> torch.device:
    """Sets torch's number of threads and random seed for a job, and returns the device."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    return torch.device(job.device)


def compiled(module: nn.Module, candidate: Candidate) -> Callable[..., Any]:
    """Compiles a module with the torch.compile mode in the setting `compile`, if it is set."""
    mode = candidate.setting("compile", "none")
    if mode == "none":
        return module
    if mode not in MODES:
        raise ValueError(f"unknown setting compile={mode}; choose none, {', '.join(MODES)}")
    return torch.compile(module, mode=mode)


def prepare_inference(job: Job, candidate: Candidate, module: nn.Module, logits: Callable[[Any], Tensor]) -> Prepared:
    """Returns a prepared candidate that runs forward passes. With `autocast=true`, the weights stay in float32."""
    device, dtype = set_up(job), getattr(torch, candidate.precision)
    autocast = candidate.setting("autocast") == "true"
    network = module.eval().to(device) if autocast else module.eval().to(device, dtype)
    batch = torch.from_numpy(images(job)).to(device, torch.float32 if autocast else dtype)
    call = compiled(network, candidate)

    def once() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if autocast else nullcontext():
            return logits(call(batch))

    return prepare(job, once, device, {"method": "autocast" if autocast else "weights cast"})


def prepare(job: Job, once: Callable[[], Tensor], device: torch.device, notes: dict[str, str]) -> Prepared:
    """Returns a prepared candidate that runs a forward pass and waits until the device has finished."""
    # Copied: with CUDA graphs the next pass overwrites the output.
    outputs = once().float().cpu().numpy().copy()

    def run() -> None:
        once()
        synchronize(device)

    return Prepared(run=run, items=job.batch, outputs=outputs, notes=notes)


def prepare_training(job: Job, candidate: Candidate, module: nn.Module, logits: Callable[[Any], Tensor]) -> Prepared:
    """Returns a prepared candidate that runs AdamW training steps, with autocast unless the precision is float32."""
    device, autocast = set_up(job), candidate.precision != "float32"
    module = module.to(device).train()
    call = compiled(module, candidate)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    batch = torch.from_numpy(images(job)).to(device)
    classes = torch.from_numpy(targets(job)).to(device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, getattr(torch, candidate.precision)) if autocast else nullcontext():
            loss = F.cross_entropy(logits(call(batch)).float(), classes)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    losses = np.array([step() for _ in range(STEPS_COMPARED)], np.float32)
    return Prepared(run=step, items=job.batch, outputs=losses, notes={"optimizer": "torch AdamW, fused"})
