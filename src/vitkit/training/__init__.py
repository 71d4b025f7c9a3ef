"""Training of models. `train(run, folder)` starts or resumes the training run of a config `Run`.

run.py           config of a run (`Run`) and the files of a run folder
finetune.py      the `Run` that fine-tunes a checkpoint on a data source
checks.py        validation of a run before training starts
plan.py          steps, evaluations, expected time and memory of a run
trial.py         measures the time of training steps and of an evaluation before a run
pace.py          number of steps of a run with a length in minutes
setup.py         model, objective and optimizer of a run
launch.py        `train`: validates, starts or resumes a run, and writes its report
undo.py          restores the folder of a run that fails before its first step
extend.py        resumes and extends the run of a folder
session.py       one process of a run: resume, log, evaluate, save, stop on signals
stopping.py      early stopping
adapt.py         opens the data of a run, and adapts a recipe to the data
targets.py       the task of a run and its standardized targets
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

from vitkit.training.launch import Result, train
from vitkit.training.loop import TrainingStopped
from vitkit.training.run import Data, Hardware, Run, RunFolder
from vitkit.training.session import Interrupted

__all__ = ["Data", "Hardware", "Interrupted", "Result", "Run", "RunFolder", "TrainingStopped", "train"]
