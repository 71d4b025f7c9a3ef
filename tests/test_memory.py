"""Memory that stays with a process that trains, and goes back afterwards."""

import ctypes
import sys

import pytest
import torch

from vitkit import memory

resource = pytest.importorskip("resource", reason="Windows has no meter of memory")
needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc"
)


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step() -> None:
    for _ in range(4):
        torch.ones(5_000_000 // 4)  # below the largest block that is kept


def held() -> int:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@needs_glibc
def test_pages_are_asked_for_once_and_given_back() -> None:
    with memory.kept():
        step()
        before = faults()
        for _ in range(5):
            step()
        # 20 tensors of 5 MB are 24,000 pages of 4 KB if each is asked for again; some are the system's, which may take
        # back pages that nobody has touched for a while.
        assert faults() - before < 24_000 / 2
        blocks = [torch.ones(1_250_000) for _ in range(40)]
        del blocks
        inside = held()
    assert inside - held() > 100_000_000


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere")
    with memory.kept():
        pass


@needs_glibc
def test_it_is_undone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), memory.kept():  # noqa: PT012 - it measures inside
        blocks = [torch.ones(1_250_000) for _ in range(40)]
        del blocks
        inside = held()
        raise ZeroDivisionError
    assert inside - held() > 100_000_000
