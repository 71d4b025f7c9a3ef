"""Contract checks of model families. Each check takes the name of a family."""

import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from vitkit import checkpoints, models
from vitkit.data.processor import Processor
from vitkit.layers import Features
from vitkit.models import Backbone, TokenBackbone
from vitkit.plugins.contracts import expect
from vitkit.plugins.contracts.objective import Subject, two_steps_change_the_loss

FACTORS = ((2, 2), (1, 2), (2, 1.5))


def tiny(family: str) -> Backbone:
    """Returns a small model of a family in evaluation mode, with noise added so that no parameter is zero."""
    model = models.build(models.family(family).TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def images_for(model: Backbone, batch: int = 2, factor: tuple[float, float] = (1, 1)) -> Tensor:
    """Returns random images whose size is the model's times `factor`, rounded down to whole patches."""
    patch = getattr(model.config, "patch_size", (1, 1))
    sides = zip(model.config.image_size, factor, patch, strict=True)
    rows, columns = (int(side * times) // each * each for side, times, each in sides)
    return torch.randn(batch, model.config.channels, rows, columns)


def config_model_presets_and_tiny_are_valid(family: str) -> None:
    """Checks the attributes of the module, and that `Model` builds a `Backbone` of the family."""
    module = models.family(family)
    model = models.build(module.TINY, device="meta")
    expect(module.PRESETS, 'PRESETS is empty; expected at least one, such as {"patch-mean/16": Config()}')
    expect(
        type(getattr(model, "config", None)) is type(module.TINY),
        "the model does not save its config; write self.config = config",
    )
    expect(isinstance(getattr(model, "width", None), int), "the model has no width; set self.width to that of a token")
    expect(
        isinstance(getattr(model, "head", None), nn.Module),
        "the model has no module 'head'; use nn.Linear(width, num_classes), or nn.Identity() for num_classes=0",
    )
    expect(
        isinstance(getattr(model, "blocks", None), nn.ModuleList),
        "the model has no nn.ModuleList 'blocks'; write "
        "self.blocks = nn.ModuleList() for a model without encoder blocks",
    )
    own = models.family(model.family).Config
    expect(own is type(model.config), f"the family of its config is '{model.family}', which has another class Config")


def features_and_logits_have_the_documented_shapes(family: str) -> None:
    """Checks the shapes of tokens, grid and logits for images of the native size."""
    model = tiny(family)
    images = images_for(model)
    features = model.features(images)
    expect(
        isinstance(features, Features),
        f"features(images) returned {type(features).__name__}; expected "
        "vitkit.layers.Features(tokens=tokens, grid=(rows, columns), num_special=...)",
    )
    number = features.num_special + math.prod(features.grid)
    expected = (images.shape[0], number, model.width)
    expect(
        tuple(features.tokens.shape) == expected,
        f"the tokens have the shape {tuple(features.tokens.shape)}; expected "
        f"{expected}: {features.num_special} special tokens, then {features.grid[0]} x {features.grid[1]} patches of "
        f"width {model.width}",
    )
    logits, classes = model(images), model.config.num_classes
    expect(
        tuple(logits.shape) == (2, classes),
        f"the logits of 2 images have the shape {tuple(logits.shape)}; expected {(2, classes)}",
    )


def images_of_other_sizes_are_accepted(family: str) -> None:
    """Checks square and non-square images that are larger than the native size."""
    model = tiny(family)
    for factor in FACTORS:
        images = images_for(model, factor=factor)
        features, size = model.features(images), tuple(images.shape[2:])
        number = features.num_special + math.prod(features.grid)
        expect(
            features.tokens.shape[1] == number,
            f"images of {size[0]} x {size[1]} pixels have "
            f"{features.tokens.shape[1]} tokens; expected {number} for the grid {features.grid}",
        )
        expect(model(images).isfinite().all(), f"the logits of images of {size[0]} x {size[1]} pixels are not finite")


def an_image_does_not_depend_on_its_neighbors(family: str) -> None:
    """Checks that the logits of an image are the same in any batch."""
    model = tiny(family)
    images = images_for(model, batch=3)
    with torch.no_grad():
        together, alone = model(images)[1:2], model(images[1:2])
    difference, largest = float((together - alone).abs().max()), float(together.abs().max())
    expect(
        difference < 1e-5 * (1 + largest),
        f"the logits of an image differ by {difference:.2g} "
        "if other images are in the batch; in eval mode, they must not depend on them",
    )


def init_weights_fills_everything_from_the_meta_device(family: str) -> None:
    """Checks that `init_weights` overwrites every parameter and buffer."""
    module = models.family(family)
    with torch.device("meta"):
        model = module.Model(module.TINY)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(math.nan if tensor.is_floating_point() else -1)
    model.init_weights()
    for where, tensor in [*model.named_parameters(), *model.named_buffers()]:
        filled = tensor.isfinite() & (tensor.is_floating_point() | (tensor >= 0))
        expect(filled.all(), f"init_weights does not initialize '{where}'; assign it with torch.nn.init there")


def init_buffers_fills_all_buffers_outside_the_state_dict(family: str) -> None:
    """Checks that `init_buffers` restores the buffers that checkpoints do not store."""
    model = models.build(models.family(family).TINY)
    stored = set(model.state_dict())
    expected = {where: tensor.clone() for where, tensor in model.named_buffers() if where not in stored}
    with torch.no_grad():
        for where, tensor in model.named_buffers():
            if where not in stored:
                tensor.fill_(0)
    model.init_buffers()
    for where, tensor in model.named_buffers():
        same = where not in expected or torch.equal(tensor, expected[where])
        expect(same, f"init_buffers does not restore the buffer '{where}', which is not in the state dict")


def gradients_reach_every_parameter(family: str) -> None:
    """Checks that every parameter gets a nonzero gradient."""
    model = tiny(family).train()
    model(images_for(model)).square().sum().backward()
    for where, parameter in model.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        expect(reached, f"no gradient reaches '{where}'; use it in the logits, or remove it")


def configs_survive_json(family: str) -> None:
    """Checks that the configs are unchanged after saving as JSON, and that their models can be built."""
    module = models.family(family)
    for name, config in {"TINY": module.TINY, **module.PRESETS}.items():
        try:
            restored = models.from_dict(models.to_dict(config))
        except (TypeError, ValueError) as error:
            restored = error
        expect(
            restored == config,
            f"{name} is {config!r}, but after saving as JSON {restored!r}; use numbers, strings, "
            "tuples and frozen dataclasses",
        )
        number = sum(parameter.numel() for parameter in models.build(config, device="meta").parameters())
        expect(number > 0, f"the model of {name} has no parameters")


def presets_have_names_of_their_own(family: str) -> None:
    """Checks that no other family has a preset with the same name."""
    listed = models.presets()
    for name, config in models.family(family).PRESETS.items():
        expect(listed.get(name) == config, f"another model family has the preset '{name}', too; choose another name")


def reset_head_zeros_the_head_and_updates_the_config(family: str) -> None:
    """Checks `reset_head`, which fine-tuning calls, for 7 classes and for no head."""
    model = tiny(family)
    before = {name: tuple(each.shape) for name, each in model.named_parameters()}
    heads = set(model.head_parameters())
    model.reset_head(7)
    expect(model.config.num_classes == 7, f"after reset_head(7), config.num_classes is {model.config.num_classes}")
    logits = model(images_for(model))
    expect(
        tuple(logits.shape) == (2, 7),
        f"after reset_head(7), the logits have the shape {tuple(logits.shape)}; expected (2, 7)",
    )
    expect(
        (logits == 0).all(),
        "after reset_head(7), the logits are not zero; override reset_head if the head is not the module 'head'",
    )
    after = {name: tuple(each.shape) for name, each in model.named_parameters()}
    changed = {name for name in after if after[name] != before.get(name)}
    expect(
        changed == heads == set(model.head_parameters()),
        f"reset_head changed the shapes of {sorted(changed)}, but "
        f"head_parameters() has {sorted(heads)}; list all heads in head_modules",
    )
    models.build(model.config).load_state_dict(model.state_dict())
    model.reset_head(0)
    expected = (2, model.pool_width)
    shape = tuple(model(images_for(model)).shape)
    expect(shape == expected, f"without a head, the model returns the shape {shape}; expected {expected} (pool_width)")


def wrong_channels_and_too_small_images_are_rejected(family: str) -> None:
    """Checks that images with wrong channels, or smaller than one patch, raise a ValueError."""
    model = tiny(family)
    rows, columns = model.config.image_size
    _expect_error(
        model,
        torch.randn(1, model.config.channels + 1, rows, columns),
        "channels",
        "images with another number of channels",
    )
    if isinstance(model, TokenBackbone):
        _expect_error(
            model,
            torch.randn(1, model.config.channels, 1, columns),
            "smaller than one patch",
            "images smaller than one patch",
        )


def _expect_error(model: Backbone, images: Tensor, words: str, what: str) -> None:
    try:
        model(images)
    except Exception as error:
        right = isinstance(error, ValueError) and words in str(error)
        expect(
            right,
            f"{what} raise {type(error).__name__} ({' '.join(str(error).split())[:80]}); expected a ValueError "
            f"with '{words}', as vitkit.layers.PatchEmbed raises it",
        )
    else:
        expect(False, f"{what} are accepted; expected a ValueError with '{words}'")


def token_backbones_split_into_embed_and_encode(family: str) -> None:
    """Checks that `encode(embed(images))` equals `features(images)`, for models with encoder blocks."""
    model = tiny(family)
    expect(
        isinstance(model, TokenBackbone) == bool(len(model.blocks)),
        "a model with encoder blocks is a TokenBackbone, "
        f"and one without is not; blocks has {len(model.blocks)} modules, and the class derives from "
        f"{'TokenBackbone' if isinstance(model, TokenBackbone) else 'Backbone'}",
    )
    if isinstance(model, TokenBackbone):
        images = images_for(model)
        same = torch.equal(model.encode(model.embed(images)).tokens, model.features(images).tokens)
        expect(same, "encode(embed(images)) and features(images) have other tokens; they must be equal")


def every_parameter_has_a_layer(family: str) -> None:
    """Checks `layer_of`, which layer-wise learning rates use, and the order of `blocks`."""
    model = tiny(family)
    depth = len(model.blocks)
    names = {id(module): name for name, module in model.named_modules()}
    order = [names.get(id(block)) for block in model.blocks]
    expect(order == [f"blocks.{number}" for number in range(depth)], f"the blocks are {order}; expected blocks.0, ...")
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    expect(
        set(layers.values()) == set(range(depth + 2)),
        f"layer_of returns the layers {sorted(set(layers.values()))}; "
        f"expected 0 to {depth + 1}: name the modules before the blocks in embedding_modules",
    )
    for name in model.head_parameters():
        expect(layers[name] == depth + 1, f"layer_of('{name}') is {layers[name]}; expected {depth + 1} for a head")
    ran: list[int] = []
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    model(images_for(model, batch=1))
    expect(ran == list(range(depth)), f"the blocks run in the order {ran}; expected {list(range(depth))}")


def a_saved_model_loads_with_the_same_logits(family: str) -> None:
    """Checks that a checkpoint folder restores the model bit for bit."""
    model = tiny(family)
    labels = tuple(f"class {number}" for number in range(model.config.num_classes))
    processor = Processor.squash(model.config.image_size).with_channels(model.config.channels)
    images = images_for(model)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        checkpoints.save(checkpoints.Checkpoint(model=model, processor=processor, labels=labels), target, to="vitkit")
        loaded = checkpoints.load(target)
        expect(loaded.model.config == model.config, f"the config {model.config} was loaded as {loaded.model.config}")
        expect(
            torch.equal(loaded.model(images), model(images)),
            "the loaded model has other logits; every tensor must be "
            "in the state dict, or be a buffer that init_buffers sets",
        )


def supervised_training_takes_two_steps(family: str) -> None:
    """Checks that the model trains with the objective `supervised`."""
    two_steps_change_the_loss(Subject("supervised", family=family))


CHECKS = (
    config_model_presets_and_tiny_are_valid,
    features_and_logits_have_the_documented_shapes,
    images_of_other_sizes_are_accepted,
    an_image_does_not_depend_on_its_neighbors,
    init_weights_fills_everything_from_the_meta_device,
    init_buffers_fills_all_buffers_outside_the_state_dict,
    gradients_reach_every_parameter,
    configs_survive_json,
    presets_have_names_of_their_own,
    reset_head_zeros_the_head_and_updates_the_config,
    wrong_channels_and_too_small_images_are_rejected,
    token_backbones_split_into_embed_and_encode,
    every_parameter_has_a_layer,
    a_saved_model_loads_with_the_same_logits,
    supervised_training_takes_two_steps,
)
