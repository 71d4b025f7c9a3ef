"""Checkpoints: any ViT's weights in, any dialect out, every tensor accounted for, nothing run.

formats/        one file per library and family: a two-way key table and what tensors do not tell
containers/     one file per kind of weights file: headers checked before memory is taken
infer/          a model's config, read off the shapes of its tensors
locate, hub     what a user types to files on this disk; detect: whose names they are
load, save      from files to a model, and back
heads           linear heads that are published apart from their backbones
pretraining     what published files have beside the backbone, for pre-training that goes on
"""

from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError, Origin
from vitkit.checkpoints.formats import targets as list_formats
from vitkit.checkpoints.load import load
from vitkit.checkpoints.save import convert, save

__all__ = ["Checkpoint", "CheckpointError", "Origin", "convert", "list_formats", "load", "save"]
