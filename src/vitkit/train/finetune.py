"""Fine-tuning on somebody's pictures: from a checkpoint and a data source to a whole run, with defaults that suit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vitkit import checkpoints
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.inference.engine import capabilities
from vitkit.objectives import supervised
from vitkit.train.checks import with_several
from vitkit.train.optim import Optimizer
from vitkit.train.run import Data, Run
from vitkit.train.schedule import Schedule
from vitkit.train.tuning import Tune

# Fewer training pictures than this, and the steps, warm-up and rate that then do (see `defaults`).
SIZES = ((20_000, 500, 100, 0.01), (500_000, 10_000, 500, 0.01), (None, 20_000, 500, 0.03))
# What the rate is multiplied by where only a part of the model learns.
PART_RATE = {"full": 1.0, "head": 10.0, "lora": 1.0}
LORA_RANK = 8
# The least and the most of a picture that is shown: the original 5 % can miss what the picture is of.
CROP_AREA = (0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a size of data set asks for."""

    steps: int
    warmup: int
    rate: float
    batch_size: int


def defaults(pictures: int) -> Defaults:
    """Steps, warm-up, rate and batch for that many training pictures.

    ViT paper, Table 4: 500 steps for Pets and Flowers, 10,000 for CIFAR, 20,000 for ImageNet, batches of 512; the sizes
    between are those of BiT's rule (20 and 500 thousand). Warm-up and rates are AugReg's (Steiner et al. 2022, table of
    fine-tuning: 100 steps for 500, 500 for more; the middle of the sweeps). A batch is 512, but of a small data set
    at most one picture in 32, in powers of two and at least 16: a batch that is a quarter of all pictures costs much
    and tells little.
    """
    steps, warmup, rate = next(rest for most, *rest in SIZES if most is None or pictures < most)
    batch_size = max(16, min(512, 1 << max(0, (pictures // 32).bit_length() - 1)))
    return Defaults(steps=int(steps), warmup=int(warmup), rate=float(rate), batch_size=min(batch_size, pictures))


def finetune(
    model: str,
    data: str,
    *,
    val: str | None = None,
    held_out: float = 0.2,
    resolution: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    rate: float | None = None,
    batch_size: int | None = None,
    part: Literal["full", "head", "lora"] = "full",
    seed: int = 0,
) -> Run:
    """The run that fine-tunes a checkpoint: `train(finetune(model, data), folder)`; what is None suits the data's size.

    SGD with momentum 0.9, cosine, no decay, clipped to 1, as in the paper; no dropout, as in AugReg; Inception crops
    and flips, as in the original code. The processor is the checkpoint's own; `resolution` is a side in pixels. `part`
    is what learns: all, the head, or LoRA's low-rank changes and the head. Products are bfloat16 where this machine has
    circuits for them. Where pictures have several labels, each class is a question of its own (sigmoid) and the model
    is judged by mean average precision. Raises ValueError where checkpoint, data and resolution do not fit together.
    """
    if steps is not None and epochs is not None:
        raise ValueError(f"a run lasts for --steps or --epochs, not both: got {steps} and {epochs}")
    source, _ = train_and_val(data, val=val, held_out=held_out, seed=0)
    suits, chosen = defaults(len(source)), absolute(model)
    config, processor = _prepared(chosen, len(source.classes), resolution)
    size = suits.batch_size if batch_size is None else batch_size
    length = {"steps": suits.steps if steps is None and epochs is None else steps, "epochs": epochs}
    total = length["steps"] or max(1, round((epochs or 0.0) * len(source) / max(1, size)))
    return Run(
        name=f"{Path(model).stem or 'model'} on {data}",
        model=config,
        data=Data(source=data, val=val, held_out=held_out),
        processor=processor,
        augment=Augment(crop=Crop(kind="torchvision", area=CROP_AREA), flip=True),
        optimizer=Optimizer(name="sgd", rate=suits.rate * PART_RATE[part] if rate is None else rate, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=min(suits.warmup, int(total) // 5)),
        batch_size=size,
        steps=None if length["steps"] is None else int(length["steps"]),
        epochs=epochs,
        seed=seed,
        start=chosen,
        precision=precision_here(),
        tune=Tune(
            head_only=part == "head",
            lora_rank=LORA_RANK if part == "lora" else 0,
        ),
        evaluate_every=max(1, int(total) // 10),
        **_judged(source),
    )


def _judged(source: Source) -> dict[str, Any]:
    """What is minimised and what is looked at, by how many labels a picture has."""
    if with_several(source) is None:
        return {"objective": supervised.Config()}
    return {
        "objective": supervised.Config(loss="sigmoid"),
        "evaluators": ("average_precision",),
        "score": "average_precision.mean",
    }


def precision_here() -> Literal["float32", "bfloat16"]:
    """What products of training are fastest in on this machine, with the range of float32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if capabilities(device).bfloat16 else "float32"


def absolute(name: str) -> str:
    """The name of a checkpoint so that it means the same from another folder, when the run goes on."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _prepared(model: str, classes: int, resolution: int | None) -> tuple[Any, Any]:
    loaded = checkpoints.load(model, num_classes=classes)
    if resolution is not None:
        refuse_resolution(loaded.model.config, resolution)
        loaded = checkpoints.load(model, num_classes=classes, image_size=resolution)
    config, side = loaded.model.config, tuple(loaded.model.config.image_size)
    calm = {name: 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth") if hasattr(config, name)}
    processor = loaded.processor
    if tuple(processor.size) != side:
        raise ValueError(f"'{model}' takes {side}, but its processor gives {processor.size}: set --resolution")
    return replace(config, **calm), processor


def refuse_resolution(config: Any, resolution: int) -> None:
    """Raises ValueError for a side that the patches of a model do not divide, with the nearest that they do."""
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return
    for side in patch:
        if resolution < side or resolution % side:
            near = max(side, round(resolution / side) * side)
            raise ValueError(f"a resolution of {resolution} is not a multiple of the patch size {side}; {near} is")
