"""Loads, saves and converts ViT checkpoints of many libraries, without executing their code.

load, save    from files to a model, and back; every tensor must be known, present and of the right shape
verify        compares a written checkpoint, which is read back, with the original
formats/      one module per library and model family: a two-way table of tensor names
containers/   one module per file type (safetensors, npz, torch.save, sharded); headers are validated first
infer/        infers a model config from tensor shapes
locate, hub   find the files of a path or Hub id; detect: finds the format from tensor names
heads         linear heads that are published separately from the backbone
pretraining   decoders, mask tokens and heads in published files, to continue pre-training
"""

from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError, Origin
from vitkit.checkpoints.formats import list_formats
from vitkit.checkpoints.load import load
from vitkit.checkpoints.locate import is_architecture
from vitkit.checkpoints.save import LossyWarning, Saved, convert, convert_config, save, save_checked

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "LossyWarning",
    "Origin",
    "Saved",
    "convert",
    "convert_config",
    "is_architecture",
    "list_formats",
    "load",
    "save",
    "save_checked",
]
