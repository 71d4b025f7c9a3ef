"""The `vitkit explain` command."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vitkit.cli._options import CheckpointOptions, ImageOptions


def explain(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")] = (),
    *,
    out: Path,
    method: Annotated[str, arg(metavar="METHOD")] = "rollout",
    layer: int | None = None,
    head: int | None = None,
    label: str | None = None,
    fusion: Literal["mean", "max", "min"] | None = None,
    discard: float | None = None,
    share: float | None = None,
    number: int | None = None,
    all_patches: bool = False,
    arrays: Path | None = None,
    device: str = "auto",
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
    image: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> int:
    """Draw attention maps and other explanations of a model.

    Methods for images: `rollout` (attention rollout through all layers), `attention` (every head of a layer),
    `gradient` (gradient-weighted attention for a class, or Grad-CAM for a ResNet), `foreground` (the patches with most
    of a head's attention), `distance` (mean attention distance of every head), `pca` (principal components of the patch
    features of all images as colors, for any model). Methods for the model alone: `positions` (similarity of position
    embeddings), `filters` (principal components of the patch embedding). Several images are drawn below each other. If
    images cannot be read, they are listed, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        images: Image files, folders or globs, or - for standard input. Not used by --method positions and filters.
        out: Output PNG file.
        method: Explanation method: attention, distance, filters, foreground, gradient, pca, positions, rollout, or the
            method of a plug-in (./mine.py:NAME).
        layer: Layer to explain, or the last layer that --method rollout includes. Negative numbers count from the end.
            If not set: -1.
        head: Attention head to draw. With --method attention and no --layer, this head is drawn for every layer.
        label: Class name or index for --method gradient. If not set: the predicted class.
        fusion: How --method rollout combines the heads. If not set: mean, as in the ViT paper.
        discard: Fraction of the attention weights that --method rollout sets to 0, starting with the smallest weights.
            If not set: 0.
        share: Fraction of the attention that the mask of --method foreground contains. If not set: 0.6, as in DINO.
        number: Number of principal components to draw with --method filters. If not set: 28, as in the ViT paper.
        all_patches: Color all patches with --method pca, not only the foreground patches.
        arrays: Also save the values shown in the image to this .npz file.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
    """
    from vitkit.api.explain import explain as explain_model
    from vitkit.cli._outcomes import arguments_to_images, report_errors
    from vitkit.inference import load
    from vitkit.text import printable

    for path, suffix in ((out, ".png"), (arrays, ".npz")):
        if path is not None and path.suffix.lower() != suffix:
            raise ValueError(f"the output file is '{path}'; its name must end in {suffix}")
    sources = list(arguments_to_images(images)) if images else []
    explanation = explain_model(
        load(model, **checkpoint.arguments()),
        sources,
        method=method,
        layer=layer,
        head=head,
        label=label,
        fusion=fusion,
        discard=discard,
        share=share,
        number=number,
        all_patches=all_patches,
        errors="yield",
        device=device,
        limits=image.limits,
    )
    report_errors(explanation.errors)
    explanation.save(out)
    print(printable(f"{out}: {explanation.drawing.title}"))
    if arrays is not None:
        explanation.save(arrays)
        shapes = ", ".join(f"{name} {value.shape}" for name, value in explanation.arrays.items())
        print(printable(f"{arrays}: {shapes}"))
    return 2 if explanation.errors else 0
