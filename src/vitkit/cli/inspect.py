"""The `vitkit inspect` command."""

from typing import Annotated

from tyro.conf import Positional, arg

from vitkit.cli._options import CheckpointOptions
from vitkit.config import JsonDict
from vitkit.tables import listing
from vitkit.text import printable


def inspect(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    json: bool = False,
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
) -> None:
    """Describe a checkpoint or an architecture.

    Prints the architecture, the number of parameters, the FLOPs per image, the preprocessing, the labels and where the
    checkpoint comes from. One multiply-accumulate operation (MAC) counts as two FLOPs.

    Args:
        model: Checkpoint folder or file, Hugging Face Hub id, or name of an architecture (`vitkit models`), or its name
            in timm.
        json: Print the description as one JSON object.
    """
    from vitkit.cli._outcomes import json_line

    facts = _facts(model, checkpoint)
    if json:
        print(json_line(facts))
        return
    rows: list[tuple[str, str]] = []
    for section, entries in facts.items():
        if isinstance(entries, dict):
            rows += [(section, ""), *((f"  {name}", _text(value, name)) for name, value in entries.items())]
        else:
            macs = f", 2 x {entries / 2e9:.2f} G MACs" if section == "FLOPs per image" else ""
            rows.append((section, _text(entries) + macs))
    print(listing(rows))


def _facts(name: str, options: CheckpointOptions) -> JsonDict:
    from vitkit import checkpoints, config, models
    from vitkit.evaluation.flops import flops

    given = options.arguments()
    if checkpoints.is_architecture(name):
        checkpoint = None
        size = {} if given["image_size"] is None else {"image_size": given["image_size"]}
        model = models.build(models.preset(name, **size, **given["config"]), device="meta")
    else:
        checkpoint = checkpoints.load(name, **given)
        model = checkpoint.model
    facts: JsonDict = {
        "source": name,
        "architecture": models.to_dict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "FLOPs per image": flops(model),  # two FLOPs per multiply-accumulate operation
    }
    if checkpoint is not None:
        labels = checkpoint.labels
        facts["preprocessing"] = config.to_dict(checkpoint.processor)
        facts["labels"] = {"count": len(labels), "first": list(labels[:3])}
        facts["origin"] = config.to_dict(checkpoint.origin)
    return facts


def _text(value: object, name: str = "") -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return "none" if value is None else printable(value)
    if isinstance(value, int):
        return f"{value:,}" if value < 1_000_000_000 else f"{value:,} ({value / 1e9:.2f} G)"
    if name.endswith("size"):
        return " x ".join(map(str, value))
    separator = ", " if all(isinstance(item, int | float) for item in value) else "\n"
    return separator.join(map(printable, value)) or "none"
