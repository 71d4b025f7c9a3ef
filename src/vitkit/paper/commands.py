"""Command lines at the paper's scale, so that they are written in one way; a test parses every one of them."""

JFT = "webdataset:/data/jft300m"
IMAGENET_21K = "webdataset:/data/imagenet21k"
IMAGENET = "parquet:/data/imagenet"
NEEDS_JFT = "JFT-300M, which is not public (ImageNet-21k stands in with the recipes vit.*_imagenet21k)"
NEEDS_IMAGENET = "ImageNet, of your own, as in --data parquet:/data/imagenet"
# Inception crop as in the original: `finetune` by itself only mirrors.
CROP = "augment.crop.kind=tensorflow augment.crop.resampling=bilinear_aliased"


# What 384 pixels are to patches of 14: the original leaves out the 6 that fill none.
H14_AT_384 = 378


def pretrain(recipe: str, data: str, *settings: str, out: str = "") -> str:
    """`vitkit train` of a recipe."""
    place = f" --out {out}" if out else ""
    changes = f" --set {' '.join(settings)}" if settings else ""
    return f"vitkit train {recipe} --data {data}{place}{changes}"


def finetune(
    start: str, data: str, out: str, *, steps: int, rate: float, resolution: int = 384, extra: str = ""
) -> str:
    """`vitkit finetune` as the paper's Table 4 has it: SGD, cosine, batches of 512, no decay, clipped to 1."""
    settings = f"{CROP} {extra}".strip()
    return (
        f"vitkit finetune {start} --data {data} --out {out} --resolution {resolution} --steps {steps} --rate {rate} "
        f"--batch-size 512 --set accumulate=8 {settings}"
    )


def fewshot(model: str, data: str = IMAGENET) -> str:
    """`vitkit evaluate` by the 5-shot accuracy on ImageNet."""
    return f"vitkit evaluate {model} --data {data} --with fewshot"


def explain(model: str, method: str, out: str, photos: str = "") -> str:
    """`vitkit explain`."""
    words = f" {photos}" if photos else ""
    return f"vitkit explain {model}{words} --method {method} --out {out}"
