"""transformers 5 as the reference implementation: imported once, offline, without log output."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from oracles import oracle

os.environ["HF_HUB_OFFLINE"] = "1"

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limits torch to one thread: these models are too small to benefit from several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def hf() -> ModuleType:
    transformers = oracle("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@pytest.fixture
def offline_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes to an empty folder, so that a hub id can be the path of a folder in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
