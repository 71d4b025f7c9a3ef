"""vitkit with its public interface. The settings are options of `Predictor`, `Run` or `Processor`."""

import atexit
import sys
from contextlib import ExitStack
from typing import Any, get_args, get_type_hints

import numpy as np

from vitkit.bench import Candidate, Job, Prepared

NEEDS = ("vitkit", "torch")
ENDLESS = 10**9  # steps: the benchmark ends the run
CALIBRATION_IMAGES = 32


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the precisions of `Predictor` or of a training run. For classification, the default comes first."""
    if kind == "training":
        from vitkit.training import Run

        return get_args(get_type_hints(Run)["precision"])
    if kind in ("inference", "classification"):
        from vitkit.inference import predictor

        return (*([""] if kind == "classification" else []), "auto", *predictor.PRECISIONS)
    return ("",)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs the optimized model of `Predictor` on a batch on its device."""
    import torch

    from vitkit.bench import torch_network

    device = torch_network.set_up(job)
    predictor = _predictor(job, candidate)
    batch = torch.from_numpy(torch_network.images(job)).to(predictor.device, predictor.dtype)

    def once() -> torch.Tensor:
        with torch.inference_mode():
            return predictor.model(batch)

    return torch_network.prepare(job, once, device, {"precision": predictor.precision, "method": predictor.summary})


def classification(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that classifies image files with `vitkit.load(...).classify(files)`."""
    from vitkit import load

    classifier = load(f"{job.folder}/vitkit")
    options: dict[str, Any] = {"device": job.device, **_parse_settings(candidate)}
    if candidate.precision:
        options["precision"] = candidate.precision
    index = {name: number for number, name in enumerate(classifier.labels)}

    def run() -> list[int]:
        return [index[found[0].label] for _, found in classifier.classify(list(job.images), top=1, **options)]

    return Prepared(run=run, items=len(job.images), outputs=np.array(run()), notes={"method": "load(...).classify"})


def training(job: Job, candidate: Candidate) -> Prepared:
    """Returns a candidate that runs steps of vitkit's training loop, with the settings of the candidate."""
    import torch
    import torch.nn.functional as F

    from vitkit.bench import torch_network
    from vitkit.checkpoints import load
    from vitkit.data.loader import Batch
    from vitkit.training import loop, setup

    device = torch_network.set_up(job)
    loaded = load(f"{job.folder}/vitkit")
    training = setup.build_training(_run(job, candidate, loaded), ENDLESS, device)
    training.objective.backbone.load_state_dict(loaded.model.state_dict())
    training.objective.train()
    classes = F.one_hot(torch.from_numpy(torch_network.targets(job)), job.classes).float()
    batch = Batch(torch.from_numpy(torch_network.images(job)), classes, ("noise",) * job.batch).to(device)

    def step() -> float:
        loss = loop.update(training, batch)["loss"]
        training.step += 1
        return loss

    # The settings of `vitkit train`, until the process ends.
    stack = ExitStack()
    stack.enter_context(setup.process_settings(training.run, device, keep_memory=True))
    atexit.register(stack.close)
    losses = np.array([step() for _ in range(torch_network.STEPS_COMPARED)], np.float32)
    return Prepared(run=step, items=job.batch, outputs=losses, notes={"optimizer": "the loop's AdamW, fused"})


def _run(job: Job, candidate: Candidate, loaded: Any) -> Any:
    from vitkit import config
    from vitkit.bench import torch_network
    from vitkit.objectives.supervised import Config as Supervised
    from vitkit.training import Data, Hardware, Run
    from vitkit.training.optim import Optimizer
    from vitkit.training.schedule import Schedule

    plain = Run(
        name="bench",
        model=loaded.model.config,
        objective=Supervised(),
        data=Data(source="none"),
        processor=loaded.processor,
        optimizer=Optimizer(lr=torch_network.RATE, weight_decay=torch_network.DECAY, clip=torch_network.CLIP),
        schedule=Schedule(decay="constant"),
        batch_size=job.batch,
        steps=ENDLESS,
        hardware=Hardware(device=job.device, threads=job.threads),
    )
    return config.override(plain, {"precision": candidate.precision, **dict(candidate.settings)})


def data(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs `Processor.array` on single images. Settings are `Processor` fields."""
    from vitkit import Processor, config

    # Ignores color profiles, as the other libraries do.
    processor = config.override(Processor.squash(job.image_size, profile="ignore"), dict(candidate.settings))

    def run() -> None:
        for name in job.images:
            processor.array(name)

    outputs = np.stack([processor.array(name) for name in job.images])
    return Prepared(run=run, items=len(job.images), outputs=outputs, notes={"method": "Processor.array"})


def startup(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that imports the model classes or runs `vitkit classify`, each in a new process."""
    from vitkit.bench.kinds.startup import prepare_process

    if job.task == "import":
        return prepare_process(
            [sys.executable, "-c", "from vitkit import ViTForImageClassification, ViTImageProcessor"], classifies=False
        )
    arguments = ["-m", "vitkit", "classify", f"{job.folder}/vitkit", job.images[0], "--json", "--top", "1"]
    return prepare_process([sys.executable, *arguments], classifies=True)


class IdentityProcessor:
    """Processor for images that are already normalized arrays."""

    def array(self, image: np.ndarray, **options: object) -> np.ndarray:
        """Returns the image unchanged."""
        return image


def _predictor(job: Job, candidate: Candidate) -> Any:
    import inspect

    from vitkit import Predictor, load
    from vitkit.config import nearest

    options = _parse_settings(candidate)
    supported = [name for name in inspect.signature(Predictor).parameters if name not in ("model", "processor")]
    for name in options:
        if name not in supported:
            raise ValueError(f"Predictor has no setting '{name}'{nearest(name, supported)}")
    noise = np.random.default_rng(2).standard_normal((CALIBRATION_IMAGES, 3, *job.image_size), dtype=np.float32)
    settings: dict[str, Any] = {
        "precision": candidate.precision,
        "device": job.device,
        "batch_size": job.batch,
        **options,
    }
    # int8 layers are calibrated on as many images of the same noise as in the other peers.
    settings.setdefault("calibration", list(noise))
    processor: Any = IdentityProcessor()
    return Predictor(load(f"{job.folder}/vitkit").model, processor, **settings)


def _parse_settings(candidate: Candidate) -> dict[str, Any]:
    from vitkit.config import parse

    return {name: parse(value) for name, value in candidate.settings}
