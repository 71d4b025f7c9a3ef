"""`vitkit embed`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitkit.predict import Outcome


def embed(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    out: Path | None = None,
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto",
    merge_tokens: int = 0,
    resampling: Literal["pillow", "torch", "draft"] = "pillow",
    compile: bool = False,  # noqa: A002 - the option's name
    device: str = "auto",
    batch_size: int | None = None,
    image_size: int | None = None,
    allow_truncated: bool = False,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
) -> int:
    """Turn photos into feature vectors.

    Prints one JSON object a line, or writes one .npz with `paths` and `embeddings` (images, width). An image that
    cannot be read is reported, and left out of the .npz; the exit code is then 2.

    Args:
        model: A checkpoint: a folder, a file of any dialect, or a hub id.
        images: Files, folders, globs, or - for standard input (an image, or one path a line).
        out: Write a .npz file here instead of JSON lines.
        precision: The arithmetic of the network; auto is the fastest that is near float32 here, which is exact. int8 is
            calibrated on the first photos, float8 is for GPUs.
        merge_tokens: How many tokens every block merges away (ToMe): faster, another answer.
        resampling: `pillow` or `torch` by whose pixels; `draft` decodes large JPEG files small: faster, other pixels.
        compile: Have torch's compiler make the network first: for very many images on a GPU; it takes a minute or more.
        device: Where it runs: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images in one pass; 8 on a CPU, 64 on a GPU.
        image_size: The side in pixels to look at images in; the model's own if not given.
        allow_truncated: Also accept image files that are cut short.
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (pool=none).
    """
    from vitkit.cli._outcomes import arguments_to_images, count_failures, opened, shows_progress
    from vitkit.predict import Predictor

    if out is not None and out.suffix != ".npz":
        raise ValueError(f"--out writes .npz files, not '{out.name}'")
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder '{out.parent}' to write '{out.name}' into")
    sources = arguments_to_images(images)
    classifier = opened(model, revision, image_size, set)
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
        progress=shows_progress(),
    )
    outcomes = predictor.embeddings(sources)
    return count_failures(_print_json(outcomes)) if out is None else _save(outcomes, out)


def _print_json(outcomes: "Iterator[Outcome]") -> "Iterator[Outcome]":
    from vitkit.cli._outcomes import json_line

    for outcome in outcomes:
        if outcome.error is not None or outcome.output is None:
            rest = {"error": {"code": outcome.error.code, "message": str(outcome.error)}} if outcome.error else {}
        else:
            rest = {"embedding": outcome.output.tolist()}
        print(json_line({"path": str(outcome.source), **rest}), flush=True)
        yield outcome


def _save(outcomes: "Iterator[Outcome]", out: Path) -> int:
    import sys

    import numpy as np

    from vitkit import atomic
    from vitkit.cli._outcomes import count_failures

    kept: list[Outcome] = []

    def sort() -> "Iterator[Outcome]":
        for outcome in outcomes:
            if outcome.error is None:
                kept.append(outcome)
            else:
                print(f"vitkit: {outcome.source}: {outcome.error}", file=sys.stderr)
            yield outcome

    code = count_failures(sort())
    rows = [outcome.output for outcome in kept if outcome.output is not None]
    if not rows:
        raise ValueError("no image could be read: nothing was written")
    names = np.array([str(outcome.source) for outcome in kept])
    atomic.write_file(out, lambda part: _write(part, paths=names, embeddings=np.stack(rows)))
    print(f"{out}: {len(rows)} embeddings of width {rows[0].shape[-1]}")
    return code


def _write(path: Path, **arrays: Any) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)
