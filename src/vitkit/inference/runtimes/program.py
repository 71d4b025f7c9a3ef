"""Programs of torch.export (.pt2), run by PyTorch; checked whole before PyTorch reads them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitkit.checkpoints import CheckpointError
from vitkit.inference.runtimes._exported import Runner
from vitkit.inference.runtimes._program_check import check
from vitkit.inference.runtimes._trace import Traced

FILE = "model.pt2"


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """The program; CheckpointError for an archive that could do more than compute, or that PyTorch refuses."""
    with path.open("rb") as file:
        check(file, path.name)
        file.seek(0)
        try:
            with warnings.catch_warnings():
                # torch 2.9 warns of its own reading; nothing writes to a program's weights.
                warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
                module = torch.export.load(file).module()
        except Exception:
            # The reader asserts and raises whatever comes to its mind on a program that does not hold together.
            raise CheckpointError(f"{path.name} is no program that this PyTorch ({torch.__version__}) takes") from None
    places = {name: index for index, name in enumerate(outputs)}

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        with torch.inference_mode():
            answers = module(torch.from_numpy(images))
        return [answers[places[name]].numpy() for name in wanted]

    return run


TOLERANCES = {"float32": 1e-4}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes the archive for `torch.export.load`."""
    torch.export.save(traced.program, path)
