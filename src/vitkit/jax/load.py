"""Checkpoints of the twin: a Google `.npz` read directly, everything else through `vitkit.checkpoints`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vitkit import config as configs
from vitkit.jax import npz
from vitkit.jax.convert import Flat, flatten, nest, to_flax, to_torch
from vitkit.jax.layers import resize_positions
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"


@dataclass(frozen=True, kw_only=True)
class FlaxCheckpoint:
    """A config and its parameters (a nested tree of numpy or jax arrays).

    `spelling` is how the `.npz` that they came from names them, None where they came from elsewhere. `processor` and
    `labels` are those of `vitkit.checkpoints`, None where nothing says them: `save` then writes the lineage's own.
    """

    config: Config
    params: dict[str, Any]
    spelling: npz.Spelling | None = None
    processor: Any = None
    labels: tuple[str, ...] | None = None

    def model(self, *, dtype: DTypeLike = jnp.float32, remat: bool = False) -> ViT:
        """The module to apply the parameters with."""
        return ViT(self.config, dtype=dtype, remat=remat)

    def with_head(self, num_classes: int) -> "FlaxCheckpoint":
        """The same backbone with a new, zero linear head in place of head and pre-logits (ViT paper, section 3.2)."""
        params = {name: value for name, value in self.params.items() if name not in ("head", "pre_logits")}
        if num_classes:
            kernel = np.zeros((self.config.width, num_classes), np.float32)
            params["head"] = {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}
        config = replace(self.config, num_classes=num_classes, pre_logits=0)
        return replace(self, config=config, params=params, labels=None)

    def with_image_size(self, image_size: tuple[int, int]) -> "FlaxCheckpoint":
        """The same model for another native size: a learned table is resized once, in the config's dialect."""
        config = replace(self.config, image_size=image_size)
        flat = flatten(self.params)
        if npz.POSITIONS in flat and config.grid != self.config.grid:
            special, patches = np.split(np.asarray(flat[npz.POSITIONS])[0], [config.num_special_positions])
            patches = resize_positions(jnp.asarray(patches), self.config.grid, config.grid, config.position_resize)
            flat[npz.POSITIONS] = np.concatenate([special, np.asarray(patches)])[None]
        processor = self.processor
        if processor is not None:
            from vitkit.checkpoints.preprocessing import resized

            processor = resized(processor, image_size)
        return replace(self, config=config, params=nest(flat), processor=processor)


def load(source: str | Path, **changes: Any) -> FlaxCheckpoint:
    """The checkpoint at `source`: a Google `.npz`, or anything that `vitkit.checkpoints.load` knows.

    `changes` are fields of the config that a file cannot say, as in `load(path, pool="none")` for an unpooled model
    or `image_size` for a table that is not square. ValueError where weights and config do not fit.
    """
    if str(source).endswith(".npz"):
        flat, spelling = npz.read(source)
        checkpoint = FlaxCheckpoint(config=config_of(flat, spelling, **changes), params=nest(flat), spelling=spelling)
    else:
        checkpoint = _through_torch(source, changes)
    check(checkpoint.config, checkpoint.params)
    return checkpoint


def save(target: str | Path, checkpoint: FlaxCheckpoint, *, overwrite: bool = False) -> None:
    """Writes a Google file where `target` ends in `.npz`, else a checkpoint folder that the PyTorch side opens too.

    A folder that is there is refused unless `overwrite`. A checkpoint that came from an `.npz` is written as that file
    spelled it: same names, same order, same bytes.
    """
    if str(target).endswith(".npz"):
        npz.write(target, flatten(checkpoint.params), checkpoint.spelling)
    else:
        _save_through_torch(Path(target), checkpoint, overwrite)


def config_of(flat: Flat, spelling: npz.Spelling, **changes: Any) -> Config:
    """The config that the names and shapes of a Google file say, with `changes`.

    A file without class token is taken for one that averages its patches, and a learned table for a square grid.
    """
    patch = flat["embedding/kernel"].shape
    depth = len({name.split("/")[1] for name in flat if name.startswith("Transformer/encoderblock_")})
    class_token, map_pool = "cls" in flat, "MAPHead_0/probe" in flat
    big_vision = spelling.dialect == "big_vision"
    learned = npz.POSITIONS in flat
    found = {
        "patch_size": (patch[0], patch[1]),
        "channels": patch[2],
        "width": patch[3],
        "depth": depth,
        "num_heads": flat[QUERY].shape[1],
        "mlp_width": flat["Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"].shape[1],
        "num_classes": flat["head/kernel"].shape[1] if "head/kernel" in flat else 0,
        "class_token": class_token,
        "num_registers": flat["registers"].shape[1] if "registers" in flat else 0,
        "pool": "map" if map_pool else "token" if class_token else "gap",
        "norm": "pooled" if "fc_norm/scale" in flat else "tokens",
        "pre_logits": flat["pre_logits/kernel"].shape[1] if "pre_logits/kernel" in flat else 0,
        "position": "learned" if learned else "sincos2d" if big_vision else "none",
        "position_tokens": "patches" if big_vision else "class+patches",
        "activation": "gelu_tanh",
        "qkv_bias": QUERY.replace("kernel", "bias") in flat,
        "qk_norm": QUERY.replace("query/kernel", "query_ln/scale") in flat,
        "layer_scale": 1.0 if "Transformer/encoderblock_0/LayerScale_0/gamma" in flat else None,
    }
    sizes = {key: (value, value) for key, value in changes.items() if key.endswith("_size") and isinstance(value, int)}
    config = configs.from_dict(Config, {**found, **changes, **sizes})
    if learned and "image_size" not in changes:
        rows = flat[npz.POSITIONS].shape[1] - config.num_special_positions
        side = math.isqrt(max(rows, 0))
        if side * side != rows:
            raise ValueError(f"a table of {rows} positions is not square: say its image_size=(rows, columns) in pixels")
        config = replace(config, image_size=(side * config.patch_size[0], side * config.patch_size[1]))
    return config


def check(config: Config, params: Mapping[str, Any]) -> None:
    """ValueError that names the first parameters that are missing, too many, or of another shape than the config's."""
    want, have = shapes(config), {name: tuple(value.shape) for name, value in flatten(params).items()}
    missing, unknown = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    other = [f"{name} is {have[name]}, not {want[name]}" for name in want if name in have and have[name] != want[name]]
    problems = [f"missing {', '.join(missing[:3])}"] if missing else []
    problems += [f"unknown {', '.join(unknown[:3])}"] if unknown else []
    problems += other[:3]
    if problems:
        raise ValueError(f"the parameters do not fit the config: {'; '.join(problems)}")


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the model of that config, by its flat name; nothing is computed."""
    import jax

    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    tree = jax.eval_shape(ViT(config).init, jax.random.key(0), images)
    return {name: tuple(value.shape) for name, value in flatten(tree["params"]).items()}


def _through_torch(source: str | Path, changes: Mapping[str, Any]) -> FlaxCheckpoint:
    from vitkit import checkpoints

    rest = dict(changes)
    image_size = rest.pop("image_size", None)
    found = checkpoints.load(source, image_size=image_size, config=rest, dtype=None)
    config = found.model.config
    if not isinstance(config, Config):
        family = found.model.family
        raise ValueError(f"{source} is of the family '{family}': the Flax twin covers the plain ViT; use PyTorch")
    params = nest(to_flax(found.model.state_dict(), config.num_heads))
    return FlaxCheckpoint(config=config, params=params, processor=found.processor, labels=found.labels)


def _save_through_torch(folder: Path, checkpoint: FlaxCheckpoint, overwrite: bool) -> None:
    from vitkit import checkpoints, models
    from vitkit.checkpoints import preprocessing
    from vitkit.data.labels import default_labels

    config = checkpoint.config
    model = models.build(config, initialise=False)
    model.load_state_dict(to_torch(flatten(checkpoint.params)), assign=True)
    big_vision = checkpoint.spelling is not None and checkpoint.spelling.dialect == "big_vision"
    default = preprocessing.big_vision if big_vision else preprocessing.google
    whole = checkpoints.Checkpoint(
        model=model.eval(),
        processor=checkpoint.processor or default(config),
        labels=checkpoint.labels if checkpoint.labels is not None else default_labels(config.num_classes),
    )
    checkpoints.save(whole, folder, overwrite=overwrite)
