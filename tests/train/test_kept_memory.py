"""Memory that stays with a process that trains, and goes back afterwards."""

import ctypes
import resource
import sys

import pytest
import torch

from vitkit.train import memory

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc"
)


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step() -> None:
    for _ in range(4):
        torch.ones(5_000_000 // 4)  # below the largest block that is kept


@needs_glibc
def test_pages_are_asked_for_once_and_given_back() -> None:
    with memory.kept():
        step()
        before = faults()
        for _ in range(5):
            step()
        inside = faults() - before
    before = faults()
    for _ in range(5):
        step()
    outside = faults() - before
    # 20 tensors of 5 MB: 24,000 pages of 4 KB, or fewer where the system gives larger ones.
    assert 5 * inside < outside


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere")
    with memory.kept():
        pass


@needs_glibc
def test_it_is_undone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), memory.kept():
        raise ZeroDivisionError
    before = faults()
    step()
    assert faults() - before > 100
