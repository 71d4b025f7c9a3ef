"""Loads and saves Flax checkpoints.

Google's `.npz` files are read directly, other formats by `vitkit.checkpoints`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vitkit import config as configs
from vitkit.data.processor import Processor
from vitkit.jax import npz
from vitkit.jax.convert import (
    POSITIONS,
    TABLE,
    Flat,
    Params,
    PyTree,
    flatten,
    nest,
    to_flax,
    to_tensor,
    to_torch,
)
from vitkit.jax.layers import resize_positions
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

PATCHES = "embedding/kernel"
QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"


@dataclass(frozen=True, kw_only=True)
class FlaxCheckpoint:
    """The config and parameters of a Flax ViT.

    `params` is a nested dict of numpy or JAX arrays. `name_format` has the names of the `.npz` file that they were
    loaded from, if any. `processor` and `labels` are those of `vitkit.checkpoints`; if they are None, `save` writes the
    defaults of the format.
    """

    config: Config
    params: Params
    name_format: npz.NameFormat | None = None
    processor: Processor | None = None
    labels: tuple[str, ...] | None = None

    def model(self, *, dtype: DTypeLike = jnp.float32, remat: bool = False) -> ViT:
        """Returns the Flax module to which the parameters belong."""
        return ViT(self.config, dtype=dtype, remat=remat)

    def with_head(self, num_classes: int) -> "FlaxCheckpoint":
        """Returns a copy with a zero-initialized linear head and no pre-logits layer (ViT paper, section 3.2)."""
        params = {name: value for name, value in self.params.items() if name not in ("head", "pre_logits")}
        if num_classes:
            kernel = np.zeros((self.config.width, num_classes), np.float32)
            params["head"] = {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}
        config = replace(self.config, num_classes=num_classes, task=self.config.task.for_new_head(), pre_logits=0)
        return replace(self, config=config, params=params, labels=None)

    def in_target_units(self) -> "FlaxCheckpoint":
        """Returns a checkpoint whose regression head predicts targets in their original units (not standardized)."""
        task = self.config.task
        if not task.target_std:
            return self
        mean, std = np.asarray(task.target_mean), np.asarray(task.target_std)
        kernel, bias = (np.asarray(self.params["head"][name], np.float64) for name in ("kernel", "bias"))
        head = {"kernel": np.float32(kernel * std), "bias": np.float32(bias * std + mean)}
        config = replace(self.config, task=replace(task, target_mean=(), target_std=()))
        return replace(self, config=config, params={**self.params, "head": head})

    def with_image_size(self, image_size: tuple[int, int]) -> "FlaxCheckpoint":
        """Returns a copy for another image size. Resizes learned position embeddings with `config.position_resize`."""
        config = replace(self.config, image_size=image_size)
        flat = flatten(self.params)
        if POSITIONS in flat and config.grid != self.config.grid:
            special, patches = np.split(np.asarray(flat[POSITIONS])[0], [config.num_special_positions])
            patches = resize_positions(jnp.asarray(patches), self.config.grid, config.grid, config.position_resize)
            flat[POSITIONS] = np.concatenate([special, np.asarray(patches)])[None]
        processor = self.processor
        if processor is not None:
            from vitkit.checkpoints.preprocessing import resized

            processor = resized(processor, image_size)
        return replace(self, config=config, params=nest(flat), processor=processor)

    def with_channels(self, channels: int) -> "FlaxCheckpoint":
        """Returns a copy for another number of channels. Adapts the RGB weights (see `layers.adapt_input_weight`)."""
        import torch

        from vitkit.layers import adapt_input_weight

        flat = flatten(self.params)
        kernel = torch.from_numpy(np.array(flat[PATCHES])).permute(3, 2, 0, 1)
        flat[PATCHES] = adapt_input_weight(kernel, channels).permute(2, 3, 1, 0).contiguous().numpy()
        processor = None if self.processor is None else self.processor.with_channels(channels)
        return replace(self, config=replace(self.config, channels=channels), params=nest(flat), processor=processor)


def load(source: str | os.PathLike[str], **changes: object) -> FlaxCheckpoint:
    """Loads a Google `.npz` file, or any checkpoint that `vitkit.checkpoints.load` supports.

    `changes` are fields of the config that the file does not store, for example pool="none" for an unpooled model, or
    `image_size` for a position table that is not square; `channels` adapts an RGB model. Raises ValueError if weights
    and config do not match.
    """
    if str(source).endswith(".npz"):
        flat, name_format = npz.read(Path(source))
        channels = changes.pop("channels", None)
        config = config_of(flat, name_format, **changes)
        checkpoint = FlaxCheckpoint(config=config, params=nest(flat), name_format=name_format)
        if isinstance(channels, int) and channels != config.channels:
            checkpoint = checkpoint.with_channels(channels)
    else:
        checkpoint = _load_through_torch(source, changes)
    check(checkpoint.config, checkpoint.params)
    return checkpoint


def save(target: str | Path, checkpoint: FlaxCheckpoint, *, overwrite: bool = False) -> None:
    """Saves a Google `.npz` file if `target` ends in `.npz`, otherwise a checkpoint folder.

    A checkpoint loaded from an `.npz` file is saved with the same names, order and bytes. Raises ValueError if the
    folder exists, unless `overwrite`.
    """
    if str(target).endswith(".npz"):
        from vitkit.checkpoints import meaning

        if reason := meaning.unsupported(checkpoint.config, "npz"):
            raise ValueError(reason)
        npz.write(target, flatten(checkpoint.params), checkpoint.name_format)
    else:
        _save_through_torch(Path(target), checkpoint, overwrite)


def config_of(flat: Flat, name_format: npz.NameFormat, **changes: object) -> Config:
    """Infers the config from the parameter names and shapes in a Google file, as the PyTorch reader does.

    `changes` override config fields. Without a class token the pool is "gap"; a learned position table is assumed to
    have a square grid. Raises ValueError if the config cannot be inferred.
    """
    import torch

    from vitkit.checkpoints import meaning
    from vitkit.checkpoints.formats.google import big_vision, vit
    from vitkit.checkpoints.infer.vit import infer_vit
    from vitkit.checkpoints.tensors import Info, Tensors

    infos = {name: Info(tuple(array.shape), torch.float32) for name, array in flat.items()}  # the dtype is not read
    shapes = TABLE.shapes(Tensors(infos, lambda name: to_tensor(flat[name])))
    defaults = big_vision.defaults(shapes) if name_format.library == "big_vision" else vit.DEFAULTS
    task, rest = meaning.split_overrides(changes)
    query = infos.get(QUERY)
    config = infer_vit(
        shapes,
        defaults=defaults,
        file_config={"num_heads": query.shape[1]} if query is not None and len(query.shape) == 3 else {},
        overrides=rest,
        image_size=None,
        notes=[],
    )
    return replace(config, task=meaning.read(config, None, task, []))


def check(config: Config, params: Mapping[str, PyTree]) -> None:
    """Raises ValueError if the names or shapes of the parameters do not match the config."""
    expected, actual = shapes(config), {name: tuple(value.shape) for name, value in flatten(params).items()}
    missing, unknown = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    wrong = [name for name in expected if name in actual and actual[name] != expected[name]]
    problems = [f"missing {', '.join(missing[:3])}"] if missing else []
    problems += [f"unknown {', '.join(unknown[:3])}"] if unknown else []
    problems += [f"{name} has shape {actual[name]}, expected {expected[name]}" for name in wrong[:3]]
    if problems:
        raise ValueError(f"the parameters do not match the config: {'; '.join(problems)}")


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all parameters by flat name, without computing the parameters."""
    import jax

    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    tree = jax.eval_shape(ViT(config).init, jax.random.key(0), images)
    return {name: tuple(value.shape) for name, value in flatten(tree["params"]).items()}


def _load_through_torch(source: str | os.PathLike[str], changes: configs.Json) -> FlaxCheckpoint:
    from vitkit import checkpoints

    rest = dict(changes)
    image_size = rest.pop("image_size", None)
    loaded = checkpoints.load(source, image_size=image_size, config=rest, dtype=None)
    config = loaded.model.config
    if not isinstance(config, Config):
        family = loaded.model.family
        raise ValueError(
            f"{source} is a model of the family '{family}', but vitkit.jax supports only plain ViTs; use PyTorch"
        )
    params = nest(to_flax(loaded.model.state_dict(), config.num_heads))
    return FlaxCheckpoint(config=config, params=params, processor=loaded.processor, labels=loaded.labels)


def _save_through_torch(folder: Path, checkpoint: FlaxCheckpoint, overwrite: bool) -> None:
    from vitkit import checkpoints, models
    from vitkit.checkpoints import preprocessing
    from vitkit.data.labels import default_labels

    config = checkpoint.config
    model = models.build(config, initialize=False)
    model.load_state_dict(to_torch(flatten(checkpoint.params)), assign=True)
    big_vision = checkpoint.name_format is not None and checkpoint.name_format.library == "big_vision"
    default = preprocessing.big_vision if big_vision else preprocessing.google
    converted = checkpoints.Checkpoint(
        model=model.eval(),
        processor=checkpoint.processor or default(config),
        labels=checkpoint.labels if checkpoint.labels is not None else default_labels(config.num_classes),
    )
    checkpoints.save(converted, folder, overwrite=overwrite)
