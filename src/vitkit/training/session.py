"""Training in one process: resumes, trains, logs, evaluates and saves a run, and stops on SIGTERM or Ctrl-C."""

import platform
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch

from vitkit import checkpoints, distributed, evaluation
from vitkit.config import JsonDict
from vitkit.data import Source
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, evaluation_batches, training_batches
from vitkit.data.unreadable import TooManyUnreadable, Unreadable, check_unreadable
from vitkit.evaluation.f1 import best_thresholds
from vitkit.models import Backbone
from vitkit.task import Task
from vitkit.training.checkpointing.saving import CheckpointNotSaved, CheckpointSaver, allocate_like
from vitkit.training.events import Events, read, rewind
from vitkit.training.loop import Training, TrainingStopped, checkpoint_templates, fit
from vitkit.training.metrics import Metrics
from vitkit.training.pace import Pace
from vitkit.training.plan import lines as plan_lines
from vitkit.training.run import Run, RunFolder
from vitkit.training.setup import evaluation_model
from vitkit.training.stopping import EarlyStopping
from vitkit.training.summary import Evaluated, autocast_dtype

# Names of the fields that every event in the log has.
PLACE = ("kind", "step", "time")


class Interrupted(KeyboardInterrupt):
    """Raised after a signal has stopped the run and a checkpoint was saved. The same command resumes the run."""

    def __init__(self, number: int, step: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; saved, run the same command to resume")
        self.exit_code = 128 + number


class StopRequest:
    """Context manager that records SIGTERM and SIGINT. A second Ctrl-C ends the process immediately.

    Has an effect in the main thread only, because Python handles signals there.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


class TrainingSession:
    """Trains a run in the current process, from the start or from the newest checkpoint."""

    def __init__(self, training: Training, files: RunFolder, validation: Source, saver: CheckpointSaver, pace: Pace):
        self.training = training
        self.files = files
        self.validation = validation
        self.saver = saver
        self.pace = pace
        self.steps = 0  # number of steps that this process has trained
        self.logged_plan: JsonDict = {}  # fields of the last plan in the log
        self.saved: Evaluated | None = None  # predictions of the saved model, if this process evaluated it
        self.score = float("-inf")  # metric of the saved model
        self.best_step = 0  # its step
        self.evaluated = 0  # step of the last evaluation
        self.unreadable = 0  # number of training samples that were replaced
        self.named: dict[str, None] = {}  # unreadable images in the log, in order
        self.stopping = EarlyStopping(training.run)
        self.logged_phase = -1  # phase of the objective whose FLOPs were logged last

    def resume(self) -> None:
        """Loads the newest complete training checkpoint, if there is one. Removes later events from the log."""
        saved = self.saver.load_newest(allocate_like(checkpoint_templates(self.training)))
        if saved is not None:
            self.training.load_state_dict(saved["training"])
            self.score, self.best_step, self.unreadable = saved["score"], saved["best_step"], saved["unreadable"]
        log, metric, step = [], None, self.training.step
        if distributed.is_main_process():
            rewind(self.files.log, step)
            log = read(self.files.log)
            self.named = dict.fromkeys(name for each in log if each["kind"] == "unreadable" for name in each["images"])
            for event in (each for each in log if each["kind"] == "plan"):
                self.logged_plan = {name: value for name, value in event.items() if name not in PLACE}
            # A checkpoint is saved before the evaluation of its step; the log says whether that was completed.
            last = [each for each in log if each["kind"] == "evaluation" and each["step"] == step]
            metric = last[-1].get(self.training.run.metric) if last else None
        self.stopping.restore(log)
        if not distributed.broadcast(float(self.files.best.is_dir())):  # somebody removed the saved model
            self.score, metric = float("-inf"), None
        if distributed.broadcast(0.0 if metric is None else 1.0):
            self.update_best(distributed.broadcast(metric or 0.0))
        costs = [event for event in log if event["kind"] == "cost"]
        # FLOPs are counted once per phase, also in a resumed run: the step that counts them is not compiled, so
        # counting in another step would change its rounding.
        flops_per_image = distributed.broadcast(costs[-1]["flops_per_image"] if costs else 0.0)
        self.training.flops = flops_per_image * self.local_batch_size or None
        phase = round(distributed.broadcast(costs[-1].get("phase", 0) if costs else -1))
        self.training.counted_phase = self.logged_phase = phase

    def change_config(self, run: Run, before: int) -> JsonDict:
        """Saves the config of a resumed run. Returns the fields of a log event, or {} if nothing has changed.

        `before` is the number of steps before the change. Raises ValueError if more steps were already trained than the
        run has.
        """
        step, total = self.training.step, self.training.total
        if step > total:
            raise ValueError(
                f"the run in '{self.files.path}' was already trained for {step} steps, but steps is {total}; "
                f"set steps to at least {step}"
            )
        changed = self.files.changes(run)
        if not distributed.any_true(bool(changed)):  # every process has read the config before rank 0 changes it
            return {}
        distributed.on_rank_zero(lambda: self.files.save(run))
        note = f"{', '.join(changed)} changed"
        if before != total:
            note += f"; {total} steps instead of {before}: the {run.schedule.decay} schedule of {total} steps from here"
        return {"fields": changed, "total_before": before, "total": total, "note": note}

    @property
    def evaluation_due(self) -> bool:
        """Whether the model must be evaluated after the current step and has not been evaluated yet."""
        step, total = self.training.step, self.training.total
        every = self.pace.plan.evaluate_every
        # A planned evaluation is left out if the last evaluation of the run is close.
        regular = step == total or (step % every == 0 and (self.pace.plan.fixed or total - step >= every / 2))
        return step > 0 and regular and self.evaluated != step

    def update_best(self, value: float) -> bool:
        """Records the metric of the current model, and returns whether this model is to be saved."""
        self.evaluated = self.training.step
        chosen = value > self.score or self.training.run.select == "last"
        if chosen:
            self.score, self.best_step = value, self.training.step
        return chosen

    @property
    def local_batch_size(self) -> float:
        """Number of images of each batch that this process trains on."""
        return self.training.run.batch_size / distributed.world_size()

    def save(self, *, last: bool) -> None:
        """Saves a training checkpoint and waits for completion if `last` is True. All processes must call this."""
        content = {
            "training": self.training.state_dict(),
            "score": self.score,
            "best_step": self.best_step,
            "unreadable": self.unreadable,
        }
        self.saver.save(self.training.step, content, last=last)

    def run(self, source: Source, events: Events) -> None:
        """Trains until the last step, or until a signal, an error or early stopping ends the run."""
        training, run = self.training, self.training.run
        events.write(
            "start" if training.step == 0 else "resume",
            training.step,
            torch=torch.__version__,
            python=platform.python_version(),
            device=str(next(training.objective.parameters()).device),
            total=training.total,
            images=len(source),
            held_out=len(self.validation),
            peak_flops=events.peak.flops_per_second if events.peak else None,
            peak_source=events.peak.source if events.peak else None,
            notes=list(training.notes),
        )
        plan = self.pace.plan.event()
        if self.logged_plan != plan:
            events.write("plan", training.step, **plan)
        if training.step < training.total:
            for line in plan_lines(self.pace.plan, training.step):
                events.print(line)
        for note in training.notes if training.step == 0 else ():
            events.print(f"{run.init_from}: {note}")
        self.log_unreadable((f"training data: {name}" for name in source.skipped), events)
        if self.validation.skipped != source.skipped:  # not those of one folder, which was split
            self.log_unreadable((f"validation data: {name}" for name in self.validation.skipped), events)
        if self.stopping.exhausted:
            events.print(f"step {training.step:>6} of {training.total}   {self.stopping.reason}; raise patience")
            return
        transform = Transform(run.processor, run.augment, run.data.limits)
        batches = training_batches(source, transform, data_stream(run), consumed=training.consumed)
        with StopRequest() as stop:
            try:
                if self.evaluation_due:  # the run was stopped before this evaluation
                    self.evaluate(events, source)
                if self.stops_early(events):
                    return
                self.pace.begin(training.step)
                fit(training, batches, self.after_step(events, stop, source))
            except (TrainingStopped, TooManyUnreadable) as error:
                events.write("stopped", training.step, reason=str(error))
                try:
                    self.save(last=True)
                except CheckpointNotSaved as failure:
                    raise TrainingStopped(f"{error}; {failure}") from None
                raise TrainingStopped(str(error)) from None
            number = distributed.all_reduce_max(stop.number or 0)
            if number and (training.step < training.total or self.evaluation_due):
                raise Interrupted(number, training.step)

    def after_step(self, events: Events, stop: StopRequest, source: Source) -> Callable[[Metrics, Batch], bool]:
        """Returns the callback that logs, evaluates and saves after each step. It returns True to end training."""
        training, run = self.training, self.training.run

        def after(scalars: Metrics, batch: Batch) -> bool:
            self.steps += 1
            step = training.step
            training.total = events.total = self.pace.total(step, training.total)
            over = step == training.total
            if training.counted_phase != self.logged_phase:
                self.logged_phase = training.counted_phase
                flops_per_image = (training.flops or 0) / self.local_batch_size
                events.write("cost", step, flops_per_image=flops_per_image, phase=self.logged_phase)
            events.flops = training.flops
            events.step(step, scalars)
            unreadable, stopping = distributed.all_reduce_sum(len(batch.unreadable), int(stop.number is not None))
            self.count_unreadable(unreadable, batch, events)
            # Saved before the evaluation, whose errors must not lose the training before it.
            if self.evaluation_due or stopping or step % run.hardware.save_every == 0:
                self.save(last=over or bool(stopping))
                events.pause()
            if self.evaluation_due and not stopping:
                self.evaluate(events, source)
                stopping = distributed.any_true(stop.number is not None)  # a signal may arrive during the evaluation
                stopping = self.stops_early(events) or stopping
            return bool(stopping)

        return after

    def stops_early(self, events: Events) -> bool:
        """Returns whether early stopping ends the run before its last step. Logs the reason if it does."""
        training = self.training
        if not self.stopping.exhausted or training.step == training.total:
            return False
        events.write("early_stop", training.step, reason=self.stopping.reason)
        events.print(f"step {training.step:>6} of {training.total}   {self.stopping.reason}")
        return True

    def count_unreadable(self, found: int, batch: Batch, events: Events) -> None:
        """Counts and logs the unreadable images in a batch. Raises TooManyUnreadable if there are too many."""
        if found:
            self.unreadable += found
            names = distributed.all_gather(tuple(f"training {image}" for image in batch.unreadable))
            self.log_unreadable(names, events)
            check_unreadable(self.unreadable, self.training.consumed, self.training.run.data.max_unreadable, names[-1])

    def log_unreadable(self, names: Iterable[str], events: Events) -> None:
        """Logs unreadable images that are not in the log yet."""
        new = [name for name in dict.fromkeys(names) if name not in self.named]
        if new:
            self.named |= dict.fromkeys(new)
            events.write("unreadable", self.training.step, number=len(new), images=new)

    def evaluate(self, events: Events, source: Source) -> None:
        """Evaluates the model and logs its metrics, see `_evaluate`."""
        self.pace.timed(lambda: self._evaluate(events, source))
        events.pause()

    def _evaluate(self, events: Events, source: Source) -> None:
        """Evaluates the model, and saves it if it is the best one so far or if `select` is "last".

        Raises TrainingStopped, in every process, if an evaluator cannot compute its metrics.
        """
        run, step = self.training.run, self.training.step
        model = evaluation_model(self.training)
        metrics: dict[str, float] = {}
        tasks = [run.model.task]
        found: list[Evaluated | None] = []

        def compute() -> None:
            unreadable = [Unreadable(len(each), run.data.max_unreadable) for each in (self.validation, source)]
            outputs = model_outputs(run, model, self.validation, source, unreadable)
            metrics.update(evaluation.evaluate(outputs, run.evaluators))
            self.log_unreadable((f"validation {image}" for image in unreadable[0].images), events)
            self.log_unreadable((f"training {image}" for image in unreadable[1].images), events)
            if run.metric not in metrics:
                raise ValueError(f"unknown metric '{run.metric}'; the metrics are {', '.join(metrics)}")
            tasks.append(tuned_task(run, outputs))
            found.append(Evaluated.of(outputs, tasks[-1], unreadable[0]))

        try:
            distributed.on_rank_zero(compute)
        except ValueError as error:
            raise TrainingStopped(f"the evaluation of step {step} failed: {error}") from error
        value = distributed.broadcast(metrics.get(run.metric, 0.0))
        self.stopping.add(step, value)
        if self.update_best(value) and distributed.is_main_process():
            save_model(run, model, self.validation.classes, self.files.best, tasks[-1])
            self.saved = found[-1]
        events.write("evaluation", step, **metrics)  # at last: the log says that the evaluation is completed
        events.print(
            f"step {step:>6} of {self.training.total}   {run.metric} {evaluation.formatted(run.metric, value)}"
        )


def data_stream(run: Run) -> Stream:
    """Returns the sample order of this process. Raises ValueError if processes cannot get equal parts of a batch."""
    return Stream(
        batch_size=run.batch_size,
        seed=run.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=run.hardware.workers,
    )


def model_outputs(
    run: Run, backbone: Backbone, source: Source, training: Source, unreadable: Sequence[Unreadable]
) -> evaluation.ModelOutputs:
    """Returns the inputs of evaluators: the model, validation images, and training images without augmentation.

    `unreadable` collects those of the validation images, and those of the training images.
    """

    def batches(of: Source, failed: Unreadable) -> Iterable[Batch]:
        transform, workers = Transform(run.processor, limits=run.data.limits), run.hardware.workers
        return evaluation_batches(of, transform, batch_size=run.batch_size, workers=workers, unreadable=failed)

    return evaluation.ModelOutputs(
        backbone,
        lambda: batches(source, unreadable[0]),
        source.classes,
        training=lambda: batches(training, unreadable[1]),
        processor=run.processor,
        autocast=autocast_dtype(run),
    )


def tuned_task(run: Run, outputs: evaluation.ModelOutputs) -> Task:
    """Returns the task of the model, with the thresholds that maximize F1 if `run.tune_threshold` is set."""
    return outputs.task.with_threshold(best_thresholds(outputs.predictions) if run.tune_threshold else None)


def save_model(run: Run, backbone: Backbone, classes: tuple[str, ...], folder: Path, task: Task) -> None:
    """Saves the model as a checkpoint folder with its processor, labels and task."""
    checkpoint = checkpoints.Checkpoint(model=backbone, processor=run.processor, labels=classes)
    config = backbone.config
    backbone.config = replace(config, task=task)
    try:
        checkpoints.save(checkpoint, folder, overwrite=True)
    finally:
        backbone.config = config
