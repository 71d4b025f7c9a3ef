"""Sources of checkpoints: folders, files, subtrees, the Hub and its cache."""

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from tiny_vits import GOOGLE, SUPPORTED, TINY, checkpoint

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.checkpoints.hub import PATTERNS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _load_error(source: Any, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(source, **options)
    assert "\n" not in str(caught.value)


def test_source_does_not_exist(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "flowers")
    _load_error(tmp_path / "flower", "no such file or folder: .*; did you mean .*flowers")
    _load_error(str(tmp_path / "x.safetensors"), "no such file or folder")
    _load_error("./nowhere", "no such file or folder: ./nowhere")
    _load_error("weights/missing.npz", "no such file or folder")
    _load_error("vit-b/16", r"vit-b/16 is an architecture, not a checkpoint; models\.build")


@pytest.mark.parametrize(
    ("name", "preset"), [("vit-b/17", "vit-b/16"), ("vit-b16", "vit-b/16"), ("vit_base_patch15_224", "vit-b/16")]
)
def test_architecture_names_suggest_similar_presets(cache: Path, name: str, preset: str) -> None:
    _load_error(name, f"; presets are architectures, not checkpoints; did you mean .*'{preset}'")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "vit_base_patch16_224",
            r"\(vit-b/16\), not a checkpoint; .* are timm/vit_base_patch16_224\.augreg2_in21k_ft_",
        ),
        ("vit_large_patch14_224", r"it is an architecture \(vit-l/14\), not a checkpoint$"),
        (
            "vit_base_patch16_siglip_224",
            r"architecture, not a checkpoint; .* timm/vit_base_patch16_siglip_224\.v2_webli",
        ),
        ("vit_b_16", "; 'vit-b/16' is an architecture, not a checkpoint$"),
    ],
)
def test_architectures_of_other_libraries_are_not_checkpoints(cache: Path, name: str, hint: str) -> None:
    _load_error(name, hint)
    assert checkpoints.is_architecture(name) == ("siglip" not in name)


def test_a_path_and_an_id_of_the_hub_are_no_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_b_16").mkdir()
    assert not checkpoints.is_architecture("vit_b_16")
    assert not checkpoints.is_architecture("google/vit-base-patch16-224")
    assert checkpoints.is_architecture("vit-b/16")


def test_error_names_the_source_once(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "flowers")
    (tmp_path / "flowers" / "config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(tmp_path / "flowers")
    assert str(caught.value).startswith(f"{tmp_path / 'flowers'}")
    assert str(caught.value).count("flowers") == 1
    assert "config.json" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(tmp_path / "nowhere")
    assert str(caught.value).count("nowhere") == 1


def test_folders(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "run" / "best")
    _load_error(
        tmp_path / "run",
        r"run has no weights file; expected one of model\.safetensors.*; pass .*best, which has weights",
    )
    (tmp_path / "empty").mkdir()
    _load_error(tmp_path / "empty", "has no weights")
    checkpoints.save_checked(checkpoint(GOOGLE), tmp_path / "jax" / "a.npz", to="npz", lossy=True)
    assert checkpoints.load(tmp_path / "jax").origin.format == "npz"
    checkpoints.save_checked(checkpoint(GOOGLE), tmp_path / "jax" / "b.npz", to="npz", lossy=True)
    _load_error(tmp_path / "jax", r"several weights files; pass one of them: a\.npz, b\.npz")
    (tmp_path / "x.txt").write_text("hello")
    _load_error(tmp_path / "x.txt", r"x\.txt is not a weights file; supported suffixes are \.safetensors")
    _load_error(tmp_path / "run" / "best", "is a local path, but revision", revision="main")


def test_weights_file_of_a_folder_uses_its_config(tmp_path: Path) -> None:
    made = checkpoint(TINY, labels=("a", "b", "c", "d", "e"))
    checkpoints.save(made, tmp_path / "x")
    assert checkpoints.load(tmp_path / "x" / "model.safetensors").labels == made.labels
    shutil.copy(tmp_path / "x" / "model.safetensors", tmp_path / "x" / "other.safetensors")
    assert checkpoints.load(tmp_path / "x" / "other.safetensors").labels != made.labels


def test_subtrees_of_two_tower_files(tmp_path: Path) -> None:
    made = checkpoint(SUPPORTED["big_vision"][1])
    checkpoints.save_checked(made, tmp_path / "a.npz", to="big_vision", lossy=True)
    with np.load(tmp_path / "a.npz") as arrays:
        image = {name.replace("params/", "params/img/"): arrays[name] for name in arrays}
        plain = {name.removeprefix("params/"): arrays[name] for name in arrays}
    text = {"params/txt/Embed_0/embedding": np.zeros((4, 4), np.float32), "params/t": np.zeros(1, np.float32)}
    np.savez(tmp_path / "siglip.npz", **image, **text)
    state = made.model.state_dict()
    for source in (f"{tmp_path}/siglip.npz:img", f"{tmp_path}/siglip.npz:params/img", f"{tmp_path}/siglip.npz"):
        loaded = checkpoints.load(source).model.state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)
    _load_error(f"{tmp_path}/siglip.npz:image", "no subtree 'image'; it has params/img, params/t, params/txt")
    np.savez(tmp_path / "plain.npz", **plain)
    assert checkpoints.load(tmp_path / "plain.npz").origin.format == "big_vision"


@pytest.mark.parametrize("prefix", ["opt/target/", "params/", "opt/target/params/"])
def test_prefixes_of_google_files(prefix: str, tmp_path: Path) -> None:
    made = checkpoint(GOOGLE)
    checkpoints.save_checked(made, tmp_path / "a.npz", to="npz", lossy=True)
    with np.load(tmp_path / "a.npz") as arrays:
        wrapped = {prefix + name: arrays[name] for name in arrays}
        slots = {f"opt/state/param_states/{name}/momentum": arrays[name] for name in arrays}
    np.savez(tmp_path / "b.npz", **wrapped, **slots)
    loaded = checkpoints.load(tmp_path / "b.npz")
    assert "ignored: opt (not model weights)" in loaded.origin.notes
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), made.model.parameters(), strict=True))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with one model, and no network."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    repo = root / "models--owner--tiny"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    checkpoints.save(checkpoint(TINY), tmp_path / "made")
    for path in (tmp_path / "made").iterdir():
        shutil.copy(path, repo / "blobs" / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root


def test_hub_ids_from_the_cache(cache: Path) -> None:
    for source, options in [
        ("owner/tiny", {}),
        (f"owner/tiny@{COMMIT}", {}),
        ("owner/tiny", {"revision": COMMIT}),
        ("owner/tiny@main", {"revision": "main"}),
    ]:
        loaded = checkpoints.load(source, **options)
        assert loaded.origin.revision == COMMIT
        assert loaded.model.config.width == 64
    _load_error(
        "owner/tiny@main", "owner/tiny@main names the revision main, but revision=v2; pass only one", revision="v2"
    )
    _load_error("owner/tiny@v2", "owner/tiny at v2 is not in the local cache of the Hub, and the Hub cannot be reached")
    _load_error("owner/tinny", "; the cache has owner/tiny ")
    _load_error("owner/other", "owner/other is not in the local cache of the Hub.* no such local file or folder")


def test_cached_shards_are_links_to_blobs(cache: Path) -> None:
    from safetensors.torch import load_file, save_file

    repo = cache / "models--owner--tiny"
    snapshot = repo / "snapshots" / COMMIT
    tensors = load_file(snapshot / "model.safetensors")
    (snapshot / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, repo / "blobs" / shard)
        (snapshot / shard).symlink_to(Path("../../blobs") / shard)
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    import json

    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert checkpoints.load("owner/tiny").model.config.width == 64


def _response(status: int) -> Any:
    request = SimpleNamespace(method="GET", url="http://hub.invalid")
    return SimpleNamespace(status_code=status, headers={}, request=request)


def _no_proxy() -> Exception:
    """ProxyError of the HTTP library behind this version of the Hub's client: requests, httpx or httpx2."""
    library = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
    return getattr(library, "exceptions", library).ProxyError("x\ny")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("x", response=_response(404)), "the Hub has no repository owner/tiny"),
        (errors.GatedRepoError("x", response=_response(403)), "terms"),
        (errors.RevisionNotFoundError("x", response=_response(404)), "has no revision v9"),
        (errors.HfHubHTTPError("x", response=_response(500)), "cannot be reached"),
        (_no_proxy(), "cannot be reached"),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache of the Hub"),
    ],
)
def test_hub_errors(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    _load_error("owner/tiny@v9", message)


def test_pickles_are_downloaded_only_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[dict[str, Any]] = []
    snapshot = tmp_path / COMMIT
    snapshot.mkdir()
    checkpoints.save(checkpoint(TINY), tmp_path / "made")
    weights = {name: tensor.clone() for name, tensor in checkpoints.load(tmp_path / "made").model.state_dict().items()}

    def download(name: str, **options: Any) -> str:
        requests.append({"name": name, **options})
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _load_error("owner/tiny@v1", r"owner/tiny has no model\.safetensors, pytorch_model\.bin or flax_model")
    assert [(request["name"], request["revision"]) for request in requests] == [("owner/tiny", "v1")] * 2
    assert set(requests[0]["allow_patterns"]) == set(PATTERNS)
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in PATTERNS)
    torch.save(weights, snapshot / "pytorch_model.bin")
    assert checkpoints.load("owner/tiny").model.config.width == 64
    requests.clear()
    for path in (tmp_path / "made").iterdir():
        shutil.copy(path, snapshot / path.name)
    assert checkpoints.load("owner/tiny").origin.format == "huggingface"
    assert len(requests) == 1, "a model with safetensors is downloaded without its pickles"
