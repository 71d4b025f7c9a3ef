"""Files of a folder or of the Hugging Face Hub, found by name; folders made and uploaded."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit.checkpoints.json_files import read_json

__all__ = ["Place", "made_folder", "place", "push", "push_folder", "read_json"]

# Keyword arguments of every from_pretrained that say where and how to look.
FINDING = ("cache_dir", "force_download", "local_files_only", "token", "revision")
# Of older versions of transformers; without a meaning here.
UNUSED = ("trust_remote_code", "resume_download", "proxies", "mirror", "_fast_init", "low_cpu_mem_usage")


@dataclass(frozen=True)
class Place:
    """A folder, one file, or a repository of the Hub at a revision; `subfolder` inside it."""

    source: str
    subfolder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def find(self, *names: str) -> Path:
        """The first of those files that there is; OSError that names all of them where there is none."""
        source = Path(self.source)
        if source.is_file():
            return source
        for name in names:
            path = source / self.subfolder / name if source.is_dir() else self._download(name)
            if path is not None and path.is_file():
                return path
        inside = f"{self.source}/{self.subfolder}" if self.subfolder else self.source
        raise FileNotFoundError(
            f"{inside} has none of {', '.join(names)}" if names[1:] else f"{inside} has no {names[0]}"
        )

    def read_json(self, *names: str) -> dict[str, Any]:
        """The content of the first of those files that there is."""
        return read_json(self.find(*names))

    def _download(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.source, name, subfolder=self.subfolder or None, **self.options))
        except LocalEntryNotFoundError:
            if self.options.get("local_files_only"):
                return None
            raise
        except EntryNotFoundError:
            return None
        except HFValidationError:
            raise FileNotFoundError(f"{self.source} is no folder here, and no name that the Hub could have") from None


def place(source: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> tuple[Place, dict[str, Any]]:
    """Where the keyword arguments of a from_pretrained say to look, and the other ones.

    Taken: subfolder, cache_dir, force_download, local_files_only, token, revision. Dropped: what older versions of
    transformers took for ways of downloading and loading that there are no more.
    """
    options = {name: kwargs[name] for name in FINDING if kwargs.get(name) is not None}
    rest = {name: value for name, value in kwargs.items() if name not in (*FINDING, *UNUSED, "subfolder")}
    return Place(os.fspath(source), kwargs.get("subfolder") or "", options), rest


def made_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there; ValueError where a file has its name."""
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"Provided path ({path}) should be a directory, not a file")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def push(save: Callable[..., Any], repo_id: str, **options: Any) -> str:
    """Uploads what `save(folder)` writes; options as `push_folder`, the rest go to `save`. The commit's address."""
    known = ("commit_message", "private", "token", "revision", "create_pr", "commit_description")
    hub_options = {name: options.pop(name) for name in known if name in options}
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **options)
        return push_folder(Path(folder), ["*"], repo_id=repo_id, **hub_options)


def push_folder(
    folder: Path,
    patterns: Sequence[str],
    *,
    repo_id: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    **commit: Any,
) -> str:
    """Uploads files of a folder to a repository, made where it is not there and named after the folder by default.

    `commit` are revision, create_pr and commit_description. Gives the address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repository = api.create_repo(repo_id or folder.name, private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        allow_patterns=list(patterns),
        commit_message=commit_message or "Upload with vitkit",
        **commit,
    ).commit_url
