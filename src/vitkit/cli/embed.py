"""The `vitkit embed` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vitkit.cli._arguments import Joined
from vitkit.cli._options import CheckpointOptions, FileOptions, StreamOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitkit.inference import Embedding


def embed(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    out: Path | None = None,
    blocks: Annotated[str | None, Joined(), arg(metavar="INT,...")] = None,
    as_maps: bool = False,
    inference: StreamOptions = StreamOptions(),  # noqa: B008 - frozen
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
    image: FileOptions = FileOptions(),  # noqa: B008 - frozen
) -> int:
    """Compute feature vectors of images.

    Prints one line of JSON per image, or writes the file of --out. An .npz file has the arrays `paths` and
    `embeddings`, of shape (images, width). With --blocks, the JSON also has the field `blocks` with the output of each
    block, by block number. The .npz file has one array per block, such as `block_3`, of shape (images, width), or
    (images, width, rows, columns) with --as-maps. If an image cannot be read, the error is printed, the image is left
    out of the file, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        images: Image files, folders or globs, or - for standard input (one image, or one path per line).
        out: Output file: .npz, .parquet, .jsonl or .csv. If not set: one line of JSON per image is printed.
        blocks: Also return the outputs of these blocks, such as 0,3,-1. Blocks are numbered from 0, and -1 is the last.
            In a convolutional network, the blocks are the stages. The output of a block is one vector per image,
            without the final norm. It is the class token if the head uses it, else the mean of the patch tokens.
        as_maps: With --blocks, return the output of each block as a feature map instead of one vector per image.
    """
    from vitkit.api.embed import embed as embed_images
    from vitkit.cli._outcomes import arguments_to_images, count_failures, shows_progress
    from vitkit.inference import Embeddings, load

    if out is not None:
        Embeddings.check_path(out)
    if as_maps and not blocks:
        raise ValueError("--as-maps needs --blocks, such as --blocks 3,6,9")
    sources = arguments_to_images(images)
    classifier = load(model, **checkpoint.arguments())
    results = embed_images(
        classifier,
        sources,
        blocks=_numbers(blocks, classifier.model.num_taps) or None,
        as_maps=as_maps,
        errors="yield",
        stream=True,
        **vars(inference),
        allow_truncated=image.allow_truncated,
        limits=image.limits,
        progress=shows_progress(),
    )
    return count_failures(_print_json(results)) if out is None else _save(results, out)


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


def _print_json(results: "Iterator[Embedding]") -> "Iterator[Embedding]":
    from vitkit.cli._outcomes import json_line

    for result in results:
        print(json_line(result.to_dict()), flush=True)
        yield result


def _save(results: "Iterator[Embedding]", out: Path) -> int:
    from vitkit.cli._outcomes import count_failures
    from vitkit.inference import Embeddings
    from vitkit.logs import LOGGER
    from vitkit.text import plural, printable

    found: list[Embedding] = []

    def collected() -> "Iterator[Embedding]":
        for result in results:
            if result.error is None:
                found.append(result)
            else:
                LOGGER.warning("%s: %s", printable(result.name), printable(result.error))
            yield result

    code = count_failures(collected())
    if not found:
        LOGGER.warning("no image could be read; nothing was written")
        return 1
    embeddings = Embeddings(found)
    embeddings.save(out)
    rest = f", and outputs of {plural(len(found[0].blocks), 'block')}" if found[0].blocks else ""
    print(printable(f"{out}: {len(found)} embeddings of width {embeddings.to_numpy().shape[-1]}{rest}"))
    return code
