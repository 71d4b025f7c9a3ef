"""Training: `train(run, folder)` starts the training run of a config (`Run`), or resumes it.

run.py           config of a run (`Run`) and the files of a run folder
finetune.py      the `Run` that fine-tunes a checkpoint on a data source
checks.py        validation of a run before training starts
setup.py         model, objective and optimizer of a run
launch.py        `train`: start or resume, log, evaluate, save, stop on signals
loop.py          the training loop and its update step
optim/           optimizers, weight decay and layer-wise learning rates
schedule.py      learning rate schedules and the moving average of weights (EMA)
tuning.py        trainable parameters: all, by name, the head, LoRA
checkpointing/   training checkpoints: full and sharded, in the background
events.py        log, progress bar, TensorBoard, W&B and MLflow
metrics.py       metrics of a step, read from the device when logged
utilization.py   model FLOPs utilization
summary.py       report.html of a run folder
"""

from vitkit.train.launch import Interrupted, Result, train
from vitkit.train.loop import TrainingStopped
from vitkit.train.run import Data, Hardware, Run, RunFolder

__all__ = ["Data", "Hardware", "Interrupted", "Result", "Run", "RunFolder", "TrainingStopped", "train"]
