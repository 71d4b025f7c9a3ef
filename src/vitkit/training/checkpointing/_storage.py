"""Storage of sharded training checkpoints: one safetensors file per process, and a manifest with metadata.

torch.distributed.checkpoint plans which process writes which shards, and which process reads which of them when the
number of processes has changed. Its own file formats store the metadata as a pickle, which can execute code; JSON and
safetensors cannot.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from vitkit import atomic
from vitkit.config import Json, JsonDict
from vitkit.training.checkpointing import files


class Writer(StorageWriter):
    """Writes one safetensors file per process to a temporary folder, which rank 0 then renames."""

    def __init__(self, folder: Path, step: int, rest: JsonDict, keep: int):
        self.folder, self.step, self.rest, self.keep = folder, step, rest, keep
        self.temporary = folder

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """Returns False: checkpoints have no ID, because the folder is passed to the constructor."""
        return False

    def reset(self, checkpoint_id: object = None) -> None:
        """Does nothing, because the folder is passed to the constructor."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Creates the temporary folder on rank 0, before any process writes to it."""
        if is_coordinator:
            self.temporary = files.create_temporary(self.folder, self.step, keep=self.keep)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Returns the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Adds to the plan of each process the path of the file that the process writes."""
        paths = [self.temporary / f"shard-{number:05d}.safetensors" for number in range(len(plans))]
        return [replace(plan, storage_data=path) for plan, path in zip(plans, paths, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the shards of this process and flushes them to disk."""
        path: Path = plan.storage_data
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            tensor = tensor.detach().cpu().contiguous()
            # safetensors does not support tensors that share memory.
            shared = tensor.untyped_storage().data_ptr() in seen
            seen.add(tensor.untyped_storage().data_ptr())
            tensors[_key(item.index)] = tensor.clone() if shared else tensor
        done: Future[list[WriteResult]] = Future()
        results: list[WriteResult] = []
        if tensors:
            with atomic.new_file_mode(path):
                save_file(tensors, path)
            entry = (path.name, files.flush(path))
            results = [WriteResult(item.index, tensors[_key(item.index)].nbytes, entry) for item in plan.items]
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes the manifest and renames the temporary folder, after all processes have written their files."""
        written = [result for part in results for result in part]
        file_of = {_key(result.index): result.storage_data[0] for result in written}
        tensors = {
            name: {
                "dtype": str(each.properties.dtype).removeprefix("torch."),
                "shape": list(each.size),
                "chunks": [
                    [file_of[_key(MetadataIndex(name, chunk.offsets))], list(chunk.offsets), list(chunk.sizes)]
                    for chunk in each.chunks
                ],
            }
            for name, each in metadata.state_dict_metadata.items()
            if isinstance(each, TensorStorageMetadata)
        }
        entries = dict(result.storage_data for result in written)
        manifest = {"step": self.step, "files": entries, "tensors": tensors, "content": self.rest}
        files.publish(self.temporary, manifest, keep=self.keep)


class Reader(StorageReader):
    """Reads the shards that a process needs from a checkpoint written by any number of processes."""

    def __init__(self, path: Path, manifest: Json):
        self.path = path
        try:
            self.metadata, self.file_of = _parse_manifest(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"the manifest of the checkpoint '{path}' is invalid: {error}") from None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """Returns False: checkpoints have no ID, because the folder is passed to the constructor."""
        return False

    def reset(self, checkpoint_id: object = None) -> None:
        """Does nothing, because the folder is passed to the constructor."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """Returns the metadata in the manifest."""
        return self.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Does nothing, because the manifest has already been read."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Returns the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Returns the plans unchanged."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the shards in the plan, one file at a time."""
        wanted: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            wanted.setdefault(self.file_of[_key(item.storage_index)], []).append(item)
        for name, items in wanted.items():
            with safe_open(self.path / name, framework="pt") as file:
                for item in items:
                    _read(file, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _read(file: safe_open, item: ReadItem, planner: LoadPlanner) -> None:
    key = _key(item.storage_index)
    ends = zip(item.storage_offsets, item.lengths, strict=True)
    part = tuple(slice(offset, offset + length) for offset, length in ends)
    values = file.get_slice(key)[part] if part else file.get_tensor(key)
    target = planner.resolve_tensor(item)
    if values.shape != target.shape or values.dtype != target.dtype:
        raise ValueError(
            f"the tensor '{key}' has dtype {values.dtype} and shape {tuple(values.shape)} in its file, which differ "
            "from the manifest"
        )
    target.copy_(values)
    planner.commit_tensor(item, target)


def _parse_manifest(manifest: Json) -> tuple[Metadata, dict[str, str]]:
    """Returns the torch.distributed.checkpoint metadata in a manifest, and the file name of each shard."""
    tensors: dict[str, STORAGE_TYPES] = {}
    file_of: dict[str, str] = {}
    most = sum(entry["size"] for entry in manifest["files"].values())
    for name, entry in manifest["tensors"].items():
        dtype = getattr(torch, entry["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"the manifest has the dtype '{entry['dtype']}', which is not the name of a torch dtype")
        size, chunks = torch.Size(entry["shape"]), []
        if min(size, default=0) < 0:
            raise ValueError(f"the shape of the tensor '{name}' is {list(size)}; no dimension may be negative")
        for file, offsets, sizes in entry["chunks"]:
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            if file not in manifest["files"] or min([0, *offsets, *sizes]) < 0:
                raise ValueError(
                    f"a shard of the tensor '{name}' has invalid offsets {offsets} or the unknown file '{file}'"
                )
            file_of[_key(MetadataIndex(name, offsets))] = file
        # Never allocate more than the files contain.
        if sum(each.sizes.numel() for each in chunks) != size.numel() or size.numel() * dtype.itemsize > most:
            raise ValueError(f"the shards of the tensor '{name}' do not form a tensor of shape {list(size)}")
        tensors[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)
    return Metadata(tensors), file_of


def _key(index: MetadataIndex) -> str:
    return f"{index.fqn}@{','.join(str(each) for each in index.offset or ())}"


def split_tensors(content: Mapping[str, object]) -> tuple[dict[str, Tensor], JsonDict]:
    """Splits a checkpoint into JSON values and a dict of tensors, with keys such as `training/optimizer/state/3`.

    Mappings become lists of pairs, which preserves integer keys; tuples are marked. Raises ValueError for anything else
    than tensors and plain values.
    """
    tensors: dict[str, Tensor] = {}

    def visit(value: object, path: str) -> object:
        if isinstance(value, Tensor):
            if path in tensors:
                raise ValueError(f"the checkpoint has two tensors with the key '{path}'")
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {"mapping": [[key, visit(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [visit(item, f"{path}/{number}") for number, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(
            f"a checkpoint can contain only tensors and plain values, but the value at '{path}' is of type "
            f"{type(value).__name__}"
        )

    rest = {key: visit(value, key) for key, value in content.items()}
    return tensors, rest


def join_tensors(rest: Json, tensors: Mapping[str, Tensor]) -> files.State:
    """Restores a checkpoint from the output of `split_tensors`. Raises ValueError if an entry is invalid."""

    def build(value: object) -> object:
        if isinstance(value, list):
            return [build(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"tensor": str() as path} if path in tensors:
                return tensors[path]
            case {"mapping": list() as pairs}:
                return {key: build(item) for key, item in pairs}
            case {"tuple": list() as items}:
                return tuple(build(item) for item in items)
        raise ValueError(f"the checkpoint has an invalid entry: {str(value)[:80]}")

    return {key: build(value) for key, value in rest.items()}
