"""What a foreign format can say of a config, as sentences about what it cannot."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

# Shapes tell these, in every format.
SHAPES = ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width", "num_classes")
# These do not change what a trained model gives at its own size; where a format has a config, ours go beside it.
TRAINING = (
    *("position_resize", "stochastic_depth", "stochastic_depth_shape", "dropout", "attention_dropout", "init"),
    "patch_sizes",
)


def lacking(config: Any, what: str, *, fixed: Mapping[str, Any], free: Collection[str]) -> str | None:
    """The sentence that `what` cannot say a field of the config, None where it can say all.

    `fixed` are fields with the one value that `what` has, `free` those it has any value of. A field in neither, such as
    one that is new, must be at its default.
    """
    for field in fields(config):
        if field.name in SHAPES or field.name in TRAINING or field.name in free:
            continue
        value = getattr(config, field.name)
        if value != fixed.get(field.name, field.default):
            return f"{what} cannot say {field.name}={value!r}; to='vitkit' can"
    return None


def meaning(config: Any, what: str, means: Mapping[str, Any]) -> str | None:
    """The sentence that `what` says nothing of some fields, means something by it, and the config means another."""
    other = {name: getattr(config, name) for name, value in means.items() if getattr(config, name) != value}
    if not other:
        return None
    has = ", ".join(f"{name}={value!r}" for name, value in other.items())
    wants = {name: means[name] for name in other}
    options = " ".join(f"--set {name}={value}" for name, value in wants.items())
    return (
        f"{what} always means {wants}, this model has {has}: "
        f"load it with config={wants} ({options}) to accept the difference"
    )


def beside(config: Any) -> dict[str, Any]:
    """The fields to write beside a foreign config, so that reading it gives this config again."""
    return {name: getattr(config, name) for name in TRAINING if hasattr(config, name)}
