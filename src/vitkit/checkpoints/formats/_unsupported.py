"""Error messages for config fields that a checkpoint format cannot store."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

# Every format stores these as tensor shapes.
SHAPES = ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width", "num_classes")
# These do not change the output of a trained model at its own size. Formats with a config.json store them in it.
TRAINING = (
    *("position_resize", "stochastic_depth", "stochastic_depth_shape", "dropout", "attention_dropout", "init"),
    *("patch_sizes", "relative_resize"),
)


def unsupported_field(config: Any, title: str, *, fixed: Mapping[str, Any], free: Collection[str]) -> str | None:
    """Returns an error message for the first field that the format cannot store, or None if there is none.

    `fixed` maps fields to the only value that the format supports, `free` lists fields that may have any value. Every
    other field, including fields added to the config later, must have its default value. `title` names the format.
    """
    for field in fields(config):
        if field.name == "task":
            continue  # `checkpoints.meaning` stores it, or rejects the format
        if field.name in SHAPES or field.name in TRAINING or field.name in free:
            continue
        value = getattr(config, field.name)
        if value != fixed.get(field.name, field.default):
            return f"{title} cannot store {field.name}={value!r}; use to='vitkit'"
    return None


class ImpliedMismatch(str):
    """Error message for config fields that differ from the values that a format implies.

    `implied` contains the implied values of these fields.
    """

    implied: Mapping[str, Any]


def implied_mismatch(config: Any, title: str, implied: Mapping[str, Any]) -> ImpliedMismatch | None:
    """Returns an error message if config fields differ from the values that the format implies, otherwise None."""
    other = {name: getattr(config, name) for name, value in implied.items() if getattr(config, name) != value}
    if not other:
        return None
    has = ", ".join(f"{name}={value!r}" for name, value in other.items())
    wants = {name: implied[name] for name in other}
    options = " ".join(f"--set {name}={value}" for name, value in wants.items())
    message = ImpliedMismatch(
        f"{title} always implies {wants}, but this model has {has}; pass lossy=True (--lossy) to leave it out, "
        f"or load it with config={wants} ({options}) to accept the difference"
    )
    message.implied = wants
    return message


def extra_fields(config: Any) -> dict[str, Any]:
    """Returns the config fields that another library's config.json stores under the key `vitkit`."""
    return {name: getattr(config, name) for name in TRAINING if hasattr(config, name)}
