"""Checkpoints from the Hugging Face Hub: safetensors and config files only, at a pinned commit, kept in its cache."""

import difflib
from pathlib import Path

from vitkit.checkpoints.checkpoint import CheckpointError

PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)


def pull(name: str, revision: str | None) -> tuple[Path, str]:
    """The folder in the Hub's cache that has `name` at `revision` (the main branch by default), and its commit.

    Without a network, or with HF_HUB_OFFLINE=1, what the cache has is used. Nothing but `PATTERNS` is downloaded.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} on the Hub has no revision {revision}") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} on the Hub asks for its terms to be accepted there, and a token (HF_TOKEN)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"the Hub has no public repository {name}, nor a private one for this token") from None
    # The HTTP library behind the Hub differs by its version; this name for its errors does not.
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
        at = f" at {revision}" if revision else ""
        raise CheckpointError(f"{name}{at} is not in the Hub's cache, and the Hub cannot be reached") from None
    if not any((folder / each).is_file() for each in ("model.safetensors", "model.safetensors.index.json")):
        raise CheckpointError(
            f"{name} has no model.safetensors on the Hub or in its cache: "
            "files of other kinds are read when you download and name them"
        )
    return folder, folder.name


def near(name: str) -> list[str]:
    """The models in the Hub's cache on this disk whose names are like `name`."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    return difflib.get_close_matches(name, cached, n=3, cutoff=0.6)
