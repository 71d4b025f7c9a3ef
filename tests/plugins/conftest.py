"""Plug-ins that a test registers are forgotten after the test, as in a new process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vitkit import discovery, registry
from vitkit.plugins import new as plugin_file


def forget_plugins() -> None:
    """Forgets every plug-in that was loaded, as if the process were new."""
    for components in discovery._components.values():
        components.clear()
    for name in [name for name in sys.modules if name.startswith(discovery.FILES)]:
        del sys.modules[name]
    discovery._modules.clear()
    discovery._failed.clear()
    discovery._found.clear()
    registry._warned.clear()


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starts and ends each test without plug-ins, and restores `sys.path`, to which folders of plug-ins are added."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv(discovery.VARIABLE, raising=False)
    forget_plugins()
    yield
    forget_plugins()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Uses one thread, which is faster for small models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forget() -> Callable[[], None]:
    """The function that forgets all plug-ins, as a new process would."""
    return forget_plugins


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes a file into a temporary folder, and returns its path."""

    def write_file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes the file of `vitkit new KIND NAME`, and returns its path."""

    def write_file(kind: str, name: str) -> str:
        return str(plugin_file.new(kind, name, tmp_path))

    return write_file
