"""Save checkpoints in a loop in processes that are killed at random moments: KIND FOLDER KILLS SEED.

KIND is full, sharded or two (processes). Each process is a fork that saves one checkpoint after the other until
SIGKILL. After every kill the newest complete checkpoint is loaded and compared with the content that was saved for its
step. Prints counts of what was found as JSON.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitkit.training.checkpointing import files, saving, sharded

SIZE = 400_000  # elements of each of five tensors: 8 MB per checkpoint


def content(step: int) -> dict[str, Any]:
    weights = {f"layer {number}": torch.full((4, SIZE // 4), float(step * 10 + number)) for number in range(5)}
    return {"training": {"step": step, "objective": weights, "moments": {0: torch.tensor(float(step))}}, "score": 0.1}


def save_forever(kind: str, folder: Path, step: int) -> None:
    save = files.save if kind == "full" else sharded.save
    while True:
        step += 1
        save(folder, step, content(step), keep=2)


def join(rank: int, port: int) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo")


def start_process(kind: str, folder: Path, step: int, rank: int, port: int) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a process whose peer was killed prints errors
        if kind == "two":
            join(rank, port)
        save_forever(kind, folder, step)
    return child


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_more(folder: Path, step: int) -> None:
    """Waits until a checkpoint after `step` is saved."""
    wait(lambda: any(int(path.name.removeprefix("step-")) > step for path in files.list_checkpoints(folder)))


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("no checkpoint was saved")
        time.sleep(0.001)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    return one == other


def main(kind: str, folder: Path, kills: int, seed: int) -> None:
    random_numbers, found, step = random.Random(seed), Counter[str](), 0
    for _ in range(kills):
        port = free_port()
        children = [start_process(kind, folder, step, rank, port) for rank in range(2 if kind == "two" else 1)]
        wait_for_more(folder, step)
        # A save is in progress now; the kill comes at a random moment of it, or of the next one.
        wait(lambda: any(folder.glob("*.tmp")))
        time.sleep(random_numbers.uniform(0.0, 0.03))
        os.kill(children[random_numbers.randrange(len(children))], signal.SIGKILL)
        if len(children) > 1:
            time.sleep(random_numbers.uniform(0.0, 0.05))
        for child in children:
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        found["cut short"] += any(folder.glob("*.tmp"))
        found["damaged"] += sum(not files.is_complete(path) for path in files.list_checkpoints(folder))
        loaded = saving.load_newest(folder)
        assert loaded is not None, "no checkpoint to resume from"
        assert loaded["training"]["step"] > step, "a complete checkpoint is lost"
        step = loaded["training"]["step"]
        assert equal(loaded, content(step)), f"the checkpoint of step {step} differs from the saved content"
        found["good"] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
