"""Downloads config files and weights from the Hugging Face Hub to the Hub cache. Prefers safetensors files."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError

PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# Only for models without safetensors. The reader of checkpoints executes nothing of these files.
OLDER_PATTERNS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
    "flax_model.msgpack",
    "adapter_model.bin",
)


def download(
    name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None = None, **options: Any
) -> tuple[Path, str]:
    """Downloads a model. Returns its folder in the Hub cache and the commit hash.

    `revision` defaults to the main branch, `cache_dir` to the cache of huggingface_hub. `options` are `token`,
    `local_files_only` and `force_download` of huggingface_hub. Only files that match `PATTERNS` are downloaded, and
    those that match `OLDER_PATTERNS` if the model has no safetensors. Without a network, or with HF_HUB_OFFLINE=1, the
    files in the cache are used.
    """
    options["cache_dir"] = None if cache_dir is None else os.fspath(cache_dir)
    folder = _snapshot(name, revision, PATTERNS, options)
    if not any((folder / each).is_file() for each in SAFETENSORS):
        folder = _snapshot(name, revision, (*PATTERNS, *OLDER_PATTERNS), options)
        if not any(path.match(pattern) for path in folder.iterdir() for pattern in OLDER_PATTERNS):
            raise CheckpointError(
                f"{name} has no model.safetensors, pytorch_model.bin or flax_model.msgpack on the Hub or in the cache; "
                "to load another file, download it and pass its path"
            )
    return folder, folder.name


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...], options: Mapping[str, Any]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), **options))
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{name} on the Hub has no revision {revision}; check the branch, tag or commit"
        ) from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} is a gated repository; accept its terms on the Hub and set a token (HF_TOKEN)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"the Hub has no repository {name} that is public or accessible with this token; check the name"
        ) from None
    # huggingface_hub versions use different HTTP libraries; this error name works with all of them.
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
        at = f" at {revision}" if revision else ""
        raise CheckpointError(
            f"{name}{at} is not in the local cache of the Hub, and the Hub cannot be reached"
        ) from None


def similar_cached_models(name: str) -> list[str]:
    """Returns the ids of models in the Hub cache that are similar to `name`."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    cached = [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    return difflib.get_close_matches(name, cached, n=3, cutoff=0.6)
