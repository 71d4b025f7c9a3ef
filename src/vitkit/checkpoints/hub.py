"""Downloads from the Hugging Face Hub into its cache: safetensors and config files only."""

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


def download(name: str, revision: str | None) -> tuple[Path, str]:
    """Downloads a model; returns its folder in the Hub cache and the commit.

    `revision` defaults to the main branch. Only files that match `PATTERNS` are downloaded. Without a network, or with
    HF_HUB_OFFLINE=1, cached files are used.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} on the Hub has no revision {revision}") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} is a gated repository: accept its terms on the Hub and set a token (HF_TOKEN)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"the Hub has no public repository {name}, and no private one for this token") from None
    # huggingface_hub versions use different HTTP libraries; this error name works with all of them.
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
        at = f" at {revision}" if revision else ""
        raise CheckpointError(f"{name}{at} is not in the Hub's cache, and the Hub cannot be reached") from None
    if not any((folder / each).is_file() for each in ("model.safetensors", "model.safetensors.index.json")):
        raise CheckpointError(
            f"{name} has no model.safetensors on the Hub or in its cache: "
            "to load other file types, download the file and pass its path"
        )
    return folder, folder.name


def similar_cached_models(name: str) -> list[str]:
    """Returns names of cached models that are similar to `name`."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    return difflib.get_close_matches(name, cached, n=3, cutoff=0.6)
