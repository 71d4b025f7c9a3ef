"""Train on a folder of images, killed at given events: DATA FOLDER [EVENT:STEP ...].

Each process but the last is a fork that is killed (SIGKILL) when the event of that step is about to be logged:
`step:17` in the middle of training, `evaluation:10` during an evaluation. The last process finishes the run. Prints the
names of unreadable images and the number of kills as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.training import Data, Hardware, Run, train
from vitkit.training.events import Events
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

STEPS = 30


def run(data: str) -> Run:
    model = vit.Config(image_size=(8, 8), patch_size=(4, 4), width=16, depth=1, num_heads=2, mlp_width=32,
                       num_classes=3, dropout=0.1)  # fmt: skip
    return Run(
        name="broken images",
        model=model,
        objective=supervised.Config(),
        data=Data(source=data),
        processor=Processor.squash(8),
        augment=Augment(shift=0.1, flip=True),
        optimizer=Optimizer(lr=1e-2),
        schedule=Schedule(warmup=3),
        batch_size=8,
        steps=STEPS,
        ema=0.9,
        evaluators=("top1", "knn"),
        evaluate_every=10,
        hardware=Hardware(device="cpu", save_every=7, log_every=1),
    )


def kill_at(kind: str, step: int) -> None:
    write = Events.write

    def killed(self: Events, what: str, at: int, **values: object) -> None:
        if (what, at) == (kind, step):
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, what, at, **values)

    Events.write = killed  # type: ignore[method-assign]


def main(data: str, folder: Path, kills: list[str]) -> None:
    killed = 0
    for event in kills:
        kind, _, step = event.partition(":")
        child = os.fork()
        if child == 0:
            kill_at(kind, int(step))
            train(run(data), folder)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    result = train(run(data), folder)
    print(json.dumps({"killed": killed, "unreadable": result.unreadable, "score": result.score, "step": result.step}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
