"""The `vitkit embed` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from vitkit.inference import Outcome


def embed(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    out: Path | None = None,
    blocks: str | None = None,
    as_maps: bool = False,
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto",
    merge_tokens: int = 0,
    resampling: Literal["pillow", "torch", "draft"] = "pillow",
    compile: bool = False,  # noqa: A002 - the option's name
    device: str = "auto",
    batch_size: int | None = None,
    image_size: int | None = None,
    allow_truncated: bool = False,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
) -> int:
    """Compute feature vectors of images.

    Prints one JSON object per line, or writes one .npz with `paths` and `embeddings` (images, width). With --blocks,
    the JSON also has `blocks`, the output of each block by number; the .npz has one array per block, such as
    `block_3`, of shape (images, width), or (images, width, rows, columns) with --as-maps. An image that cannot be read
    is reported and left out of the .npz, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        images: Image files, folders or globs, or - for standard input (one image, or one path per line).
        out: Output .npz file. If not set: one line of JSON per image is printed.
        blocks: Also return the outputs of these blocks, such as 0,3,-1. Blocks are numbered from 0, and -1 is the last.
            In a convolutional network, the blocks are the stages. Each output is one vector per image, without the
            final norm: the class token if the head reads it, else the mean of the patch tokens.
        as_maps: With --blocks, return the output of each block as a feature map instead of one vector per image.
        precision: Numerical precision. With auto, the fastest precision with outputs close to those of float32 is used.
            An int8 model is calibrated on the first images. float8 requires a GPU.
        merge_tokens: Number of tokens to merge in each block (ToMe). This is faster but changes the outputs.
        resampling: Resize images as in Pillow or PyTorch. With draft, Pillow decodes large JPEG files at reduced size.
        compile: Compile the model with torch.compile, which takes a minute or more.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If not set: 8 on a CPU, 64 on a GPU.
        image_size: Input size in pixels. If not set: the image size of the model.
        allow_truncated: Decode truncated image files instead of reporting an error.
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000.
        revision: Branch, tag or commit of the repository on the Hugging Face Hub.
        set: Set model config fields that are missing from the checkpoint, as NAME=VALUE, such as num_heads=12.
    """
    from vitkit.cli._outcomes import arguments_to_images, count_failures, limits, load_model, shows_progress
    from vitkit.inference import Predictor

    if out is not None and out.suffix != ".npz":
        raise ValueError(f"--out is '{out.name}'; the file name must end in .npz")
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"the folder '{out.parent}' of --out does not exist")
    if as_maps and not blocks:
        raise ValueError("--as-maps needs --blocks, such as --blocks 3,6,9")
    sources = arguments_to_images(images)
    classifier = load_model(model, revision, image_size, set)
    predictor = Predictor(
        classifier.model,
        classifier.processor,
        precision=precision,
        merge_tokens=merge_tokens,
        resampling=resampling,
        compile=compile,
        device=device,
        batch_size=batch_size,
        allow_truncated=allow_truncated,
        limits=limits(max_pixels, max_bytes),
        progress=shows_progress(),
    )
    numbers = _numbers(blocks, classifier.model.num_taps)
    outcomes = predictor.embeddings(sources, blocks=numbers or None, as_maps=as_maps)
    return count_failures(_print_json(outcomes, numbers)) if out is None else _save(outcomes, numbers, out)


def _numbers(blocks: str | None, depth: int) -> tuple[int, ...]:
    """Returns the block indices given by the option --blocks, each from 0 to depth - 1."""
    from vitkit.layers import block_indices

    if blocks is None:
        return ()
    try:
        numbers = [int(each) for each in blocks.split(",")]
    except ValueError:
        raise ValueError(f"--blocks is '{blocks}'; expected numbers separated by commas, such as 3,6,9") from None
    return tuple(dict.fromkeys(block_indices(numbers, depth)))


def _print_json(outcomes: "Iterator[Outcome]", blocks: "Sequence[int]") -> "Iterator[Outcome]":
    from vitkit.cli._outcomes import json_line

    for outcome in outcomes:
        if outcome.error is not None or outcome.output is None:
            rest = {"error": {"code": outcome.error.code, "message": str(outcome.error)}} if outcome.error else {}
        else:
            rest = {"embedding": outcome.output.tolist()}
            if blocks:
                rest["blocks"] = {str(block): tap.tolist() for block, tap in zip(blocks, outcome.taps, strict=True)}
        print(json_line({"path": str(outcome.source), **rest}), flush=True)
        yield outcome


def _save(outcomes: "Iterator[Outcome]", blocks: "Sequence[int]", out: Path) -> int:
    import sys

    import numpy as np

    from vitkit import atomic
    from vitkit.cli._outcomes import count_failures
    from vitkit.text import printable

    saved: list[Outcome] = []

    def collect() -> "Iterator[Outcome]":
        for outcome in outcomes:
            if outcome.error is None:
                saved.append(outcome)
            else:
                print(f"vitkit: {printable(outcome.source)}: {printable(outcome.error)}", file=sys.stderr)
            yield outcome

    code = count_failures(collect())
    rows = [outcome.output for outcome in saved if outcome.output is not None]
    if not rows:
        print("vitkit: no image could be read; nothing was written", file=sys.stderr)
        return 1
    names = np.array([str(outcome.source) for outcome in saved])
    taps = {f"block_{block}": _stack(block, [each.taps[row] for each in saved]) for row, block in enumerate(blocks)}
    atomic.write_file(out, lambda part: _write(part, paths=names, embeddings=np.stack(rows), **taps))
    rest = f", and outputs of {len(blocks)} block{'s' * (len(blocks) > 1)}" if blocks else ""
    print(f"{out}: {len(rows)} embeddings of width {rows[0].shape[-1]}{rest}")
    return code


def _stack(block: int, outputs: "list[np.ndarray]") -> "np.ndarray":
    import numpy as np

    if len(shapes := {output.shape for output in outputs}) > 1:
        raise ValueError(f"the feature maps of block {block} have different shapes: {sorted(shapes)}; set --image-size")
    return np.stack(outputs)


def _write(path: Path, **arrays: Any) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)
