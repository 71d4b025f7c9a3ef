"""Builds the `vitkit` commands that run the experiments at the scale of the paper."""

JFT = "webdataset:/data/jft300m"
IMAGENET_21K = "webdataset:/data/imagenet21k"
IMAGENET = "parquet:/data/imagenet"
NEEDS_JFT = "JFT-300M, which is not public (the recipes vit.*_imagenet21k use ImageNet-21k instead)"
# The Inception crop of the original; the default of `finetune` is a horizontal flip only.
CROP = "augment.crop.kind=tensorflow augment.crop.resampling=bilinear_aliased"


# The largest multiple of the patch size 14 below 384; the original drops the other 6 pixels.
H14_AT_384 = 378


def pretrain(recipe: str, data: str, *settings: str, out: str = "") -> str:
    """Returns the `vitkit train` command that pre-trains a recipe."""
    output = f" --out {out}" if out else ""
    changes = f" --set {' '.join(settings)}" if settings else ""
    return f"vitkit train {recipe} --data {data}{output}{changes}"


def finetune(start: str, data: str, out: str, *, steps: int, lr: float, image_size: int = 384, extra: str = "") -> str:
    """Returns the `vitkit finetune` command with the hyperparameters of Table 4 in the ViT paper."""
    settings = f"{CROP} {extra}".strip()
    return (
        f"vitkit finetune {start} --data {data} --out {out} --image-size {image_size} --steps {steps} --lr {lr} "
        f"--batch-size 512 --set grad_accum_steps=8 {settings}"
    )


def fewshot(model: str, data: str = IMAGENET) -> str:
    """Returns the `vitkit evaluate` command for the 5-shot accuracy on ImageNet."""
    return f"vitkit evaluate {model} --data {data} --with fewshot"


def explain(model: str, method: str, out: str, images: str = "") -> str:
    """Returns the `vitkit explain` command for an explanation method."""
    inputs = f" {images}" if images else ""
    return f"vitkit explain {model}{inputs} --method {method} --out {out}"
