"""Train: the one loop. A `Run` says everything; its run folder holds what came of it, and goes on from where it was
stopped.

run.py        `Run`, the whole of a run as one frozen config      folder.py   the run folder
launch.py     `train(run, folder)`: from a run to its folder      loop.py     the loop itself
begin.py, start.py      its model before the first step           checks.py   what is refused before any
finetune.py   from a checkpoint and pictures to a `Run`           tune.py     what learns: all, the head, LoRA
optim.py, schedule.py   the update of the weights                 state.py    states that survive a kill
saving.py    when and how they are written                        shards.py, pieces.py, content.py   sharded ones
lion.py, lamb.py, together.py, closure.py   optimisers            average.py  the running mean
loggers.py   TensorBoard, W&B, MLflow
events.py, signals.py   the log, the bar, asked to stop           report.py, page.py, charts.py   report.html
"""

from vitkit.train.launch import Interrupted, Result, train
from vitkit.train.loop import TrainingStopped
from vitkit.train.run import Data, Machine, Run, RunFolder

__all__ = ["Data", "Interrupted", "Machine", "Result", "Run", "RunFolder", "TrainingStopped", "train"]
