"""`vitkit explain`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

# The files of `vitkit.explain`, which is not imported here because help must not wait for torch.
Method = Literal["attention", "distance", "filters", "foreground", "gradient", "positions", "rollout"]


def explain(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")] = (),
    *,
    out: Path,
    method: Method = "rollout",
    layer: int | None = None,
    head: int | None = None,
    label: str | None = None,
    fusion: Literal["mean", "max", "min"] | None = None,
    discard: float | None = None,
    share: float | None = None,
    number: int | None = None,
    arrays: Path | None = None,
    device: str = "auto",
    revision: str | None = None,
) -> None:
    """Draw what a model looks at.

    Of images: `rollout` (what reaches the output through all layers), `attention` (each head of a layer), `gradient`
    (what speaks for a class), `foreground` (the patches that hold most of a head's attention), `distance` (how far
    heads look, over all images). Of the model alone: `positions` (how alike position embeddings are), `filters` (the
    patch projection). Several images are drawn below each other.

    Args:
        model: A checkpoint: a folder, a file of any dialect, or a hub id.
        images: Files, folders, globs, or - for standard input; none for positions and filters.
        out: The PNG file to write.
        method: What to explain.
        layer: The layer looked at; rollout goes through it. Negative ones count from the end; the last if not given.
        head: The only head to draw (attention: in all layers, if no layer is given).
        label: The class that gradient explains, by name or number; the likeliest if not given.
        fusion: How rollout makes one of all heads; mean if not given, as in the paper.
        discard: The share of smallest weights that rollout leaves out; 0 if not given, as in the paper.
        share: The share of its mass that a foreground mask keeps; 0.6 if not given, as in DINO.
        number: How many filters to draw; 28 if not given, as in the paper.
        arrays: Also write the numbers into this .npz file.
        device: Where it runs: auto, cpu, cuda, cuda:1, mps.
        revision: Branch, tag or commit of a hub id.
    """
    from vitkit import explain as explanations
    from vitkit.cli._outcomes import arguments_to_images
    from vitkit.explain import subject
    from vitkit.predict import Predictor, load

    for path, suffix in ((out, ".png"), (arrays, ".npz")):
        if path is not None and path.suffix.lower() != suffix:
            raise ValueError(f"a {suffix} file is written, not '{path}'")
    options = {
        "layer": layer,
        "head": head,
        "label": label,
        "fusion": fusion,
        "discard": discard,
        "share": share,
        "number": number,
    }
    sources = list(arguments_to_images(images)) if images else []
    classifier = load(model, revision=revision)
    placed = Predictor(classifier.model, classifier.processor, precision="float32", device=device)
    shown = subject.read(placed.model, classifier.processor, sources, classifier.labels)
    given = {name: value for name, value in options.items() if value is not None}
    explanation = explanations.explain(method, shown, **given)
    explanation.save(out)
    print(f"{out}: {explanation.drawing.title}")
    if arrays is not None:
        explanation.save_arrays(arrays)
        shapes = ", ".join(f"{name} {value.shape}" for name, value in explanation.arrays.items())
        print(f"{arrays}: {shapes}")
