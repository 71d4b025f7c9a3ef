"""`vitkit.create_model`: builds a model by name, with random initial weights or those of a checkpoint."""

import os
from collections.abc import Mapping

from vitkit import checkpoints, models
from vitkit.api._runs import Name
from vitkit.checkpoints.formats.timm._architectures import architectures
from vitkit.models import Backbone


def create_model(
    name: str,
    pretrained: bool | Name = False,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    config: Mapping[str, object] | None = None,
) -> Backbone:
    """Creates a model from the name of its architecture, like `timm.create_model`.

    The result is a torch module in evaluation mode that maps normalized images (b, channels, height, width) to logits.
    Use `vitkit.load` to get a model together with its preprocessing and labels.

    Args:
        name: Architecture (`vitkit.list_models`), or its name in timm, transformers or torchvision: `vit-b/16`,
            `vit_base_patch16_224`, `google/vit-base-patch16-224`, `vit_b_16`.
        pretrained: Where the weights come from. False initializes them randomly. True loads the published weights of
            `name`, which must be a Hub id or the name of a timm model with published weights. A path or a Hub id loads
            that checkpoint.
        num_classes: Number of classes. A pretrained model gets a new head. 0 removes the head. If None, the number of
            classes of the architecture or the checkpoint is used.
        image_size: Input size in pixels, a number or (height, width). Position embeddings are resized.
        patch_size: Patch size in pixels, a number or (height, width).
        channels: Number of channels of the images. The input weights of a pretrained model are adapted.
        config: Other fields of the model config, such as `{"depth": 6, "stochastic_depth": 0.1}`. For a checkpoint,
            only fields that its own config does not contain are accepted.

    Raises:
        ValueError: The name or a field is unknown. The message suggests similar names.

    Example:
        >>> model = vitkit.create_model("vit-s/16", num_classes=10, image_size=64)
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> model = vitkit.create_model("google/vit-base-patch16-224", pretrained=True, num_classes=5)
    """
    if pretrained is not False:
        source = _weights(name) if pretrained is True else os.fspath(pretrained)
        loaded = checkpoints.load(
            source,
            num_classes=num_classes,
            image_size=image_size,
            patch_size=patch_size,
            channels=channels,
            config=config,
        )
        _check_architecture(name, source, loaded.model, named=pretrained is not True)
        return loaded.model
    sizes = {"image_size": image_size, "patch_size": patch_size, "num_classes": num_classes, "channels": channels}
    fields = {field: value for field, value in sizes.items() if value is not None}
    if doubled := fields.keys() & (config or {}).keys():
        raise ValueError(f"'{sorted(doubled)[0]}' was given twice, as an argument and in config; give it once")
    return models.build(models.preset(name, **fields, **(config or {}))).eval()


def _weights(name: str) -> str:
    """Returns the Hub id of the published weights of a model. Raises ValueError if there are none."""
    plain, _, tag = name.removeprefix("timm/").partition(".")
    if (timm := architectures().get(plain)) is not None:
        tags = [each for each, weights in timm.weights.items() if weights.get("hf_hub_id") == "timm/"]
        if tag and tag not in tags:
            raise ValueError(f"timm has no weights '{tag}' of {plain}; choose from {', '.join(tags)}")
        if tags:
            return f"timm/{plain}.{tag or tags[0]}"
    if "/" in name and name not in models.presets():
        return name
    raise ValueError(
        f"the architecture '{name}' names no published weights; pass a checkpoint, as in "
        "pretrained='google/vit-base-patch16-224'"
    )


def _check_architecture(name: str, source: str, model: Backbone, *, named: bool) -> None:
    """Raises ValueError if a checkpoint has another architecture. The image size and the head may differ."""
    if not named or models.canonical_name(name) is None:
        return
    expected = models.preset(name)
    for field in ("width", "depth", "patch_size"):
        one, other = getattr(expected, field, None), getattr(model.config, field, None)
        if one is not None and other is not None and one != other:
            raise ValueError(f"the checkpoint '{source}' is not a '{name}': its {field} is {other} instead of {one}")
