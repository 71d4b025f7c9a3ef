"""One process of a small parallel run, started by torchrun: CONFIG FOLDER [term STEP RANK]."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vitkit.data.sources.digits import Digits
from vitkit.training import launch, train
from vitkit.training.run import from_json


def main(config: str, folder: str, fault: str = "", step: str = "0", rank: str = "0") -> None:
    """Trains; with `term`, the process of that rank sends itself SIGTERM after that step."""
    torch.set_num_threads(1)
    Digits.__len__ = lambda self: 240  # as in conftest.py
    built = launch.build_training

    def checked(run: Any, *arguments: Any) -> Any:
        training = built(run, *arguments)
        shards = [each for each in training.objective.parameters() if hasattr(each, "to_local")]
        assert bool(shards) == (run.hardware.parallel == "fsdp")
        assert all(each.to_local().numel() <= (each.shape[0] + 1) // 2 * each[0].numel() for each in shards)
        return training

    launch.build_training = checked
    chosen = os.environ["RANK"] == rank
    if fault == "term" and chosen:
        original = launch.Events.step

        def hooked(self: Any, number: int, *rest: Any) -> None:
            original(self, number, *rest)
            if number == int(step):
                Path(folder, "signalled").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGTERM)

        launch.Events.step = hooked
    try:
        train(from_json(Path(config).read_text()), folder)
    except launch.Interrupted as error:
        Path(folder, f"exit-{os.environ['RANK']}").write_text(f"{error.exit_code} {time.time()}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
