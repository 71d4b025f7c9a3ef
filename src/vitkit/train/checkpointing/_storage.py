"""The files of a sharded state: safetensors with the pieces of each process, and their plan in the manifest as JSON.

torch.distributed.checkpoint plans who writes what, and who reads which pieces when the number of processes has changed.
Its own file formats keep that plan in a pickle, which may hold any code; nothing that is read here can run.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from vitkit.train.checkpointing import files


class Writer(StorageWriter):
    """Writes one safetensors file a process into a temporary folder that the first names when all are done."""

    def __init__(self, folder: Path, step: int, rest: Any, keep: int):
        self.folder, self.step, self.rest, self.keep = folder, step, rest, keep
        self.temporary = folder

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """It is made for its one state."""
        return False

    def reset(self, checkpoint_id: Any = None) -> None:
        """It is made for its one state."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The first process makes the folder, before any other is told what to write."""
        if is_coordinator:
            self.temporary = files.opened(self.folder, self.step, keep=self.keep)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tells each process the folder and the name of its file."""
        paths = [self.temporary / f"shard-{number:05d}.safetensors" for number in range(len(plans))]
        return [replace(plan, storage_data=path) for plan, path in zip(plans, paths, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the shards of this process to the disk."""
        path: Path = plan.storage_data
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            tensor = tensor.detach().cpu().contiguous()
            # The file format has no two names for one tensor.
            shared = tensor.untyped_storage().data_ptr() in seen
            seen.add(tensor.untyped_storage().data_ptr())
            tensors[_key(item.index)] = tensor.clone() if shared else tensor
        done: Future[list[WriteResult]] = Future()
        results: list[WriteResult] = []
        if tensors:
            save_file(tensors, path)
            entry = (path.name, files.flushed(path))
            results = [WriteResult(item.index, tensors[_key(item.index)].nbytes, entry) for item in plan.items]
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Once all have written: the manifest, and the name of the state."""
        written = [result for part in results for result in part]
        homes = {_key(result.index): result.storage_data[0] for result in written}
        tensors = {
            name: {
                "dtype": str(each.properties.dtype).removeprefix("torch."),
                "shape": list(each.size),
                "chunks": [
                    [homes[_key(MetadataIndex(name, chunk.offsets))], list(chunk.offsets), list(chunk.sizes)]
                    for chunk in each.chunks
                ],
            }
            for name, each in metadata.state_dict_metadata.items()
            if isinstance(each, TensorStorageMetadata)
        }
        digests = dict(result.storage_data for result in written)
        manifest = {"step": self.step, "files": digests, "tensors": tensors, "content": self.rest}
        files.published(self.temporary, manifest, keep=self.keep)


class Reader(StorageReader):
    """Reads the pieces that a process needs, whatever the number of processes that wrote them."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        try:
            self.metadata, self.homes = _described(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"the manifest of '{path}' describes no state: {error}") from None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """It is made for its one state."""
        return False

    def reset(self, checkpoint_id: Any = None) -> None:
        """It is made for its one state."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the manifest says."""
        return self.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the pieces, file by file."""
        wanted: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            wanted.setdefault(self.homes[_key(item.storage_index)], []).append(item)
        for name, items in wanted.items():
            with safe_open(self.path / name, framework="pt") as file:
                for item in items:
                    _read(file, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _read(file: Any, item: ReadItem, planner: LoadPlanner) -> None:
    key = _key(item.storage_index)
    ends = zip(item.storage_offsets, item.lengths, strict=True)
    part = tuple(slice(offset, offset + length) for offset, length in ends)
    values = file.get_slice(key)[part] if part else file.get_tensor(key)
    target = planner.resolve_tensor(item)
    if values.shape != target.shape or values.dtype != target.dtype:
        raise ValueError(f"'{key}' is {values.dtype} of {tuple(values.shape)} in its file, unlike its manifest")
    target.copy_(values)
    planner.commit_tensor(item, target)


def _described(manifest: dict[str, Any]) -> tuple[Metadata, dict[str, str]]:
    """The library's form of a manifest, and the file of each piece."""
    tensors: dict[str, Any] = {}
    homes: dict[str, str] = {}
    most = sum(entry["size"] for entry in manifest["files"].values())
    for name, entry in manifest["tensors"].items():
        dtype = getattr(torch, entry["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"'{entry['dtype']}' is no kind of number")
        size, chunks = torch.Size(entry["shape"]), []
        if min(size, default=0) < 0:
            raise ValueError(f"the shape of '{name}' is {list(size)}")
        for home, offsets, sizes in entry["chunks"]:
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            if home not in manifest["files"] or min([0, *offsets, *sizes]) < 0:
                raise ValueError(f"a piece of '{name}' is at {offsets} in '{home}'")
            homes[_key(MetadataIndex(name, offsets))] = home
        # No more is asked for than lies in the files.
        if sum(each.sizes.numel() for each in chunks) != size.numel() or size.numel() * dtype.itemsize > most:
            raise ValueError(f"the pieces of '{name}' are not a tensor of {list(size)}")
        tensors[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)
    return Metadata(tensors), homes


def _key(index: MetadataIndex) -> str:
    return f"{index.fqn}@{','.join(str(each) for each in index.offset or ())}"


def parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a nested state by their paths (`training/optimizer/state/3/exp_avg`), and the rest for JSON.

    Mappings become lists of pairs, so that keys stay numbers; tuples stay tuples. Raises ValueError for anything that
    is neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}

    def visited(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if path in tensors:
                raise ValueError(f"a state has two tensors at '{path}'")
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {"mapping": [[key, visited(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [visited(item, f"{path}/{number}") for number, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"a state holds tensors and plain values, but '{path}' is a {type(value).__name__}")

    rest = {key: visited(value, key) for key, value in state.items()}
    return tensors, rest


def joined(rest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state that `parted` took apart; ValueError where the two do not belong together."""

    def built(value: Any) -> Any:
        if isinstance(value, list):
            return [built(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"tensor": str() as path} if path in tensors:
                return tensors[path]
            case {"mapping": list() as pairs}:
                return {key: built(item) for key, item in pairs}
            case {"tuple": list() as items}:
                return tuple(built(item) for item in items)
        raise ValueError(f"the state has an entry that is none: {str(value)[:80]}")

    return {key: built(value) for key, value in rest.items()}
