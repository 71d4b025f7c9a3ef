"""DALL-E's encoder from the file that OpenAI published, or from its tensors in any container.

`encoder.pkl` is a pickled module: the classes it names are not run, nor looked up; `containers.pickled` takes what was
in them.
"""

import os
from pathlib import Path

import torch

from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.errors import CheckpointError, listing
from vitkit.layers.dalle import DalleEncoder


def load_words(path: str | os.PathLike[str]) -> DalleEncoder:
    """The encoder of a file, in evaluation mode and without gradients, its sizes read from the tensors.

    Raises CheckpointError that names every tensor that is missing, unknown or of another shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no file '{path}': DALL-E's encoder.pkl, or a .safetensors of its tensors")
    tensors = open_weights(file)
    first, last = (tensors.infos.get(f"blocks.{part}.w") for part in ("input", "output.conv"))
    if first is None or last is None or len(first.shape) != 4 or len(last.shape) != 4:
        raise CheckpointError(f"{file.name} is not DALL-E's encoder: it holds {listing(list(tensors.infos), 5)}")
    # Checked whole on the meta device, so that no memory is taken for a file that lies.
    with torch.device("meta"):
        model = DalleEncoder(hidden=first.shape[0], vocabulary=last.shape[0], channels=first.shape[1])
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: info.shape for name, info in tensors.infos.items()}
    wrong = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{file.name} is not DALL-E's encoder: missing, unknown or misshapen {listing(sorted(wrong))}"
        )
    state = {name: tensors.read(name).float().clone() for name in wanted}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
