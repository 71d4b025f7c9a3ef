"""Finds, downloads and uploads files in local folders and on the Hugging Face Hub."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit import atomic
from vitkit.checkpoints.hub import download
from vitkit.checkpoints.json_files import read_json
from vitkit.config import JsonDict
from vitkit.text import printable

__all__ = ["Location", "locate", "make_folder", "push", "push_folder", "read_json"]

# A keyword argument or attribute as in transformers: its type depends on its name, and whoever uses it checks it.
Argument = Any
# Keyword arguments of every from_pretrained that are passed to the download.
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
# Keyword arguments of from_pretrained that have no effect here.
IGNORED = (
    *("resume_download", "proxies", "mirror", "_fast_init", "low_cpu_mem_usage", "offload_state_dict", "_from_auto"),
    *("_from_pipeline", "_commit_hash", "tqdm_class", "trust_remote_code", "use_kernels", "allow_all_kernels"),
    *("adapter_name", "offload_folder", "offload_buffers", "max_memory", "disable_mmap", "code_revision"),
    "experts_implementation",
)
# Keyword arguments of from_pretrained that must not be set, and the reasons.
UNSUPPORTED = {
    "from_tf": "convert TensorFlow weights with transformers 4",
    "from_flax": "load Flax weights with vitkit.FlaxViTModel, or convert them with transformers 4",
    "gguf_file": "use a folder with model.safetensors",
    "quantization_config": "quantize the loaded model, with torchao for example",
    "load_in_8bit": "quantize the loaded model, with torchao for example",
    "load_in_4bit": "quantize the loaded model, with torchao for example",
    "tp_plan": "distribute the loaded model with FSDP",
    "tp_size": "distribute the loaded model with FSDP",
    "device_mesh": "distribute the loaded model with FSDP",
    "distributed_config": "distribute the loaded model with FSDP",
    "fusion_config": "use torch.compile",
    "kernel_config": "use attn_implementation='sdpa'",
    "generation_config": "image models do not generate text",
}


@dataclass(frozen=True)
class Location:
    """A local folder, a single file or a Hub repository, with an optional subfolder."""

    source: str
    subfolder: str = ""
    options: Mapping[str, Argument] = field(default_factory=dict)

    def find(self, *names: str) -> Path:
        """Returns the path of the first existing file among the given names.

        Raises FileNotFoundError if none does.
        """
        source = Path(self.source)
        if source.exists() and not source.is_dir():
            return source
        for name in names:
            path = source / self.subfolder / name if source.is_dir() else self._download(name)
            if path is not None and path.exists():
                return path
        inside = f"{self.source}/{self.subfolder}" if self.subfolder else self.source
        raise FileNotFoundError(
            f"{inside} has none of {', '.join(names)}" if names[1:] else f"{inside} has no {names[0]}"
        )

    def find_weights(self, *names: str) -> Path:
        """Returns the path of the first of the named weights files that exists. Downloads the shards of an index, too.

        Raises FileNotFoundError if no file exists. Raises ValueError for an invalid index.
        """
        path = self.find(*names)
        if path.suffix == ".json" and not Path(self.source).exists():
            shards = read_json(path).get("weight_map")
            if not isinstance(shards, Mapping):
                raise ValueError(f"{path.name} has no weight_map; expected the index of a sharded checkpoint")
            for shard in sorted({str(shard) for shard in shards.values()}):
                self.find(shard)
        return path

    def checkpoint(self) -> str:
        """Returns the path or Hub id of the checkpoint, for loaders that do not have the download options.

        A repository is downloaded here if there are options. Raises CheckpointError if this fails.
        """
        source = self.source
        if self.options and not Path(source).exists():
            options = dict(self.options)
            source = str(download(source, options.pop("revision", None), options.pop("cache_dir", None), **options)[0])
        return os.path.join(source, self.subfolder) if self.subfolder else source

    def read_json(self, *names: str) -> JsonDict:
        """Returns the content of the first existing JSON file among the given names."""
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
            raise FileNotFoundError(
                f"{self.source} is neither a local folder nor a valid id of a Hub repository"
            ) from None


def locate(source: str | os.PathLike[str], kwargs: Mapping[str, Argument]) -> tuple[Location, dict[str, Argument]]:
    """Splits the keyword arguments of `from_pretrained` into a location with download options and the other arguments.

    The location uses subfolder, cache_dir, force_download, local_files_only, token and revision. `use_auth_token` is
    the former name of token. Arguments in `IGNORED` are dropped. Raises ValueError for an argument in `UNSUPPORTED`
    that is set.
    """
    for name, reason in UNSUPPORTED.items():
        if kwargs.get(name):
            raise ValueError(f"{name}={printable(str(kwargs[name]))[:40]} is not supported; {reason}")
    options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if kwargs.get(name) is not None}
    if kwargs.get("use_auth_token") is not None:
        options.setdefault("token", kwargs["use_auth_token"])
    used = (*DOWNLOAD_OPTIONS, *IGNORED, *UNSUPPORTED, "subfolder", "use_auth_token")
    rest = {name: value for name, value in kwargs.items() if name not in used}
    return Location(os.fspath(source), kwargs.get("subfolder") or "", options), rest


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates a folder if needed and returns its path. Raises ValueError if the path is a file."""
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"Provided path ({path}) should be a directory, not a file")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def push(save: Callable[..., object], repo_id: str, *, tags: list[str] | None = None, **options: Argument) -> str:
    """Uploads the files that `save(folder)` writes and returns the URL of the commit.

    `options` are those of `push_folder`; others are passed to `save`.
    """
    known = ("commit_message", "private", "token", "revision", "create_pr", "commit_description")
    hub_options = {name: options.pop(name) for name in known if name in options}
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **options)
        return push_folder(Path(folder), ["*"], repo_id=repo_id, **({"tags": tags} if tags else {}), **hub_options)


def push_folder(
    folder: Path,
    patterns: Sequence[str],
    *,
    repo_id: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    tags: list[str] | None = None,
    **commit: Argument,
) -> str:
    """Uploads files from a folder to a Hub repository and returns the URL of the commit.

    The repository is created if needed; `repo_id` defaults to the name of the folder. `commit` may contain revision,
    create_pr and commit_description. `tags` are added to the model card of the repository.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repository = api.create_repo(repo_id or folder.name, private=private, exist_ok=True).repo_id
    if tags:
        _write_card(folder, repository, tags, token)
    return api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        allow_patterns=[*patterns, "README.md"] if tags else list(patterns),
        commit_message=commit_message or "Upload with vitkit",
        **commit,
    ).commit_url


def _write_card(folder: Path, repository: str, tags: list[str], token: str | bool | None) -> None:
    """Writes the model card of a repository, with additional tags, to README.md.

    If the repository has no model card, a new one is written.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.errors import EntryNotFoundError

    try:
        card = ModelCard.load(repository, token=token)  # type: ignore[arg-type]
    except EntryNotFoundError:
        card = ModelCard(f"---\n{ModelCardData(library_name='transformers').to_yaml()}\n---\n")
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), *tags]))
    atomic.write_text(folder / "README.md", str(card))
