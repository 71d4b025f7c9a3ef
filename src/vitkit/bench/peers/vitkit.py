"""vitkit itself, by its public interface; settings are handed on: to `Predictor`, to a run, to `Processor`."""

import atexit
import sys
from contextlib import ExitStack
from typing import Any, get_args, get_type_hints

import numpy as np

from vitkit.bench import Contender, Job, Prepared

NEEDS = ("vitkit", "torch")
ENDLESS = 10**9  # steps: the race ends it
CALIBRATED_ON = 32


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """What `Predictor` takes, or a run; the defaults of `classify` where photos are read."""
    if kind == "training":
        from vitkit.train import Run

        return get_args(get_type_hints(Run)["precision"])
    if kind in ("inference", "photos"):
        from vitkit.inference import predictor

        return (*([""] if kind == "photos" else []), "auto", *predictor.PRECISIONS)
    return ("",)


def inference(job: Job, contender: Contender) -> Prepared:
    """The network as `Predictor` places it, called on a batch that is where it is."""
    import torch

    from vitkit.bench import torch_network

    device = torch_network.start(job)
    predictor = _predictor(job, contender)
    batch = torch.from_numpy(torch_network.pictures(job)).to(predictor.device, predictor.dtype)

    def once() -> torch.Tensor:
        with torch.inference_mode():
            return predictor.model(batch)

    return torch_network.ready(job, once, device, {"runs": predictor.precision, "how": predictor.summary})


def photos(job: Job, contender: Contender) -> Prepared:
    """`vitkit.load(...).classify(files)`."""
    from vitkit import load

    classifier = load(f"{job.folder}/vitkit")
    options: dict[str, Any] = {"device": job.device, **_parsed(contender)}
    if contender.precision:
        options["precision"] = contender.precision
    index = {name: number for number, name in enumerate(classifier.labels)}

    def run() -> list[int]:
        return [index[found[0].label] for _, found in classifier.classify(list(job.photos), top=1, **options)]

    return Prepared(run=run, items=len(job.photos), outputs=np.array(run()), notes={"how": "load(...).classify"})


def training(job: Job, contender: Contender) -> Prepared:
    """The update of the one loop, with the losses of its first steps; settings are fields of the run."""
    import torch
    import torch.nn.functional as F

    from vitkit.bench import torch_network
    from vitkit.checkpoints import load
    from vitkit.data.loader import Batch
    from vitkit.train import loop, setup

    device = torch_network.start(job)
    loaded = load(f"{job.folder}/vitkit")
    training = setup.begin(_run(job, contender, loaded), ENDLESS, device)
    training.objective.backbone.load_state_dict(loaded.model.state_dict())
    training.objective.train()
    classes = F.one_hot(torch.from_numpy(torch_network.targets(job)), job.classes).float()
    batch = Batch(torch.from_numpy(torch_network.pictures(job)), classes, ("noise",) * job.batch).to(device)

    def step() -> float:
        loss = loop.update(training, batch)["loss"]
        training.step += 1
        return loss

    # As `vitkit train` sets the process up, until the process ends.
    kept = ExitStack()
    kept.enter_context(setup.machine(training.run, device, keep_memory=True))
    atexit.register(kept.close)
    losses = np.array([step() for _ in range(torch_network.STEPS_COMPARED)], np.float32)
    return Prepared(run=step, items=job.batch, outputs=losses, notes={"optimizer": "the loop's AdamW, fused"})


def _run(job: Job, contender: Contender, loaded: Any) -> Any:
    from vitkit import config
    from vitkit.bench import torch_network
    from vitkit.objectives.supervised import Config as Supervised
    from vitkit.train import Data, Machine, Run
    from vitkit.train.optim import Optimizer
    from vitkit.train.schedule import Schedule

    plain = Run(
        name="bench",
        model=loaded.model.config,
        objective=Supervised(),
        data=Data(source="none"),
        processor=loaded.processor,
        optimizer=Optimizer(rate=torch_network.RATE, weight_decay=torch_network.DECAY, clip=torch_network.CLIP),
        schedule=Schedule(decay="constant"),
        batch_size=job.batch,
        steps=ENDLESS,
        machine=Machine(device=job.device, threads=job.threads),
    )
    return config.override(plain, {"precision": contender.precision, **dict(contender.settings)})


def data(job: Job, contender: Contender) -> Prepared:
    """`Processor.array` of one file after the other; settings are fields of the processor."""
    from vitkit import Processor, config

    # Colour profiles are left alone, as all the others do.
    processor = config.override(Processor.squash(job.image_size, profile="ignore"), dict(contender.settings))

    def run() -> None:
        for name in job.photos:
            processor.array(name)

    outputs = np.stack([processor.array(name) for name in job.photos])
    return Prepared(run=run, items=len(job.photos), outputs=outputs, notes={"how": "Processor.array"})


def startup(job: Job, contender: Contender) -> Prepared:
    """A process that has the model's classes, or that has classified one photo with the command."""
    from vitkit.bench.kinds.startup import processes

    if job.task == "import":
        return processes([sys.executable, "-c", "from vitkit import ViTForImageClassification, ViTImageProcessor"], 0)
    words = ["-m", "vitkit", "classify", f"{job.folder}/vitkit", job.photos[0], "--json", "--top", "1"]
    return processes([sys.executable, *words], 1)


class Numbers:
    """What `Predictor` needs of a processor, for pictures that are numbers already."""

    def array(self, image: Any, **options: Any) -> Any:
        """The picture itself."""
        return image


def _predictor(job: Job, contender: Contender) -> Any:
    import inspect

    from vitkit import Predictor, load
    from vitkit.config import nearest

    options = _parsed(contender)
    takes = [name for name in inspect.signature(Predictor).parameters if name not in ("model", "processor")]
    for name in options:
        if name not in takes:
            raise ValueError(f"Predictor has no setting '{name}'{nearest(name, takes)}")
    noise = np.random.default_rng(2).standard_normal((CALIBRATED_ON, 3, *job.image_size), dtype=np.float32)
    settings: dict[str, Any] = {
        "precision": contender.precision,
        "device": job.device,
        "batch_size": job.batch,
        **options,
    }
    # Layers in 8 bits are calibrated on as many pictures, of the same noise, as those of the other peers.
    settings.setdefault("calibration", list(noise))
    processor: Any = Numbers()
    return Predictor(load(f"{job.folder}/vitkit").model, processor, **settings)


def _parsed(contender: Contender) -> dict[str, Any]:
    from vitkit.config import parse

    return {name: parse(value) for name, value in contender.settings}
