"""`vitkit embed`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitkit.predict import Outcome


def embed(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    out: Path | None = None,
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    batch_size: int | None = None,
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
        precision: The arithmetic of the network.
        device: Where it runs: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images in one pass; 8 on a CPU, 64 on a GPU.
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (pool=none).
    """
    from vitkit.cli._outcomes import arguments_to_images, count_failures, settings
    from vitkit.predict import Predictor, load

    if out is not None and out.suffix != ".npz":
        raise ValueError(f"--out writes .npz files, not '{out.name}'")
    sources = arguments_to_images(images)
    classifier = load(model, revision=revision, config=settings(set))
    predictor = Predictor(
        classifier.model, classifier.processor, precision=precision, device=device, batch_size=batch_size
    )
    outcomes = predictor.embeddings(sources)
    return count_failures(_print_json(outcomes)) if out is None else _save(outcomes, out)


def _print_json(outcomes: "Iterator[Outcome]") -> "Iterator[Outcome]":
    for outcome in outcomes:
        if outcome.error is not None or outcome.output is None:
            rest = {"error": {"code": outcome.error.code, "message": str(outcome.error)}} if outcome.error else {}
        else:
            rest = {"embedding": outcome.output.tolist()}
        print(json_format.dumps({"path": str(outcome.source), **rest}, ensure_ascii=False), flush=True)
        yield outcome


def _save(outcomes: "Iterator[Outcome]", out: Path) -> int:
    import sys

    import numpy as np

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
    np.savez(out, paths=np.array([str(outcome.source) for outcome in kept]), embeddings=np.stack(rows))
    print(f"{out}: {len(rows)} embeddings of width {rows[0].shape[-1]}")
    return code
