"""Reads sharded weights through their index file (Hugging Face `*.index.json`)."""

from pathlib import Path

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.tensors import Tensors
from vitkit.regular import problem

MAX_SHARDS = 1000


def open_file(path: Path) -> Tensors:
    """Opens the shards listed in an index. Raises CheckpointError for an invalid index or a shard in another folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError("the index file needs a weight_map, a JSON object that maps tensor names to file names")
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"the index lists {len(shards):,} files; the limit is {MAX_SHARDS:,}")
    opened = {shard: open_weights(_inside(path, shard)) for shard in shards}
    absent = [name for name, shard in weight_map.items() if name not in opened[shard].infos]
    if absent:
        raise CheckpointError(
            f"the index lists tensors that are missing from the shards: {listing(absent)}; copy them again"
        )
    hidden = [name for shard in shards for name in opened[shard].infos if weight_map.get(name) != shard]
    if hidden:
        raise CheckpointError(f"the shards contain tensors that the index does not list: {listing(hidden)}")
    infos = {name: opened[shard].infos[name] for name, shard in weight_map.items()}
    return Tensors(infos, lambda name: opened[weight_map[name]].read(name))


def _inside(index: Path, shard: str) -> Path:
    suffix = ".safetensors" if ".safetensors.index." in index.name else ".bin"
    if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard or not shard.endswith(suffix):
        raise CheckpointError(f"the index refers to {shard[:80]!r}, expected a *{suffix} file in the same folder")
    path = index.parent / shard
    if wrong := problem(path):
        raise CheckpointError(f"the index refers to {shard}, which {wrong}; copy this file, too")
    # In the Hub's cache, models--owner--name/snapshots/<commit>/, files are links into models--owner--name/blobs/.
    folder = index.parent.resolve()
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if not path.resolve().is_relative_to(home):
        raise CheckpointError(f"the index refers to {shard}, which links to a file in another folder; copy that file")
    return path
