"""Reading and running concurrently: order, unreadable images, read-ahead, and worker threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.images import ImageError
from vitkit.inference import Predictor, engine, predictor, stream

METHODS = {"ahead": stream.read_ahead, "workers": partial(stream.run_in_workers, workers=3)}
needs_workers = pytest.mark.skipif(not stream._can_use_one_thread(), reason="needs a torch with OpenMP threads")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def read(image: int) -> np.ndarray:
    if image % 5 == 4:
        raise ImageError("not_an_image", f"{image} is not an image")
    return np.array([image])


def run(pairs: Sequence[stream.Pair]) -> list[Any]:
    return [found if isinstance(found, ImageError) else (image, int(found[0])) for image, found in pairs]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 12, 13, 40])
def test_results_are_in_order_with_errors_for_unreadable_images(method: str, count: int) -> None:
    found = list(METHODS[method](range(count), read, run, 4))
    assert len(found) == count
    for image, result in enumerate(found):
        if image % 5 == 4:
            assert isinstance(result, ImageError)
            assert str(image) in str(result)
        else:
            assert result == (image, image)


@pytest.mark.parametrize("method", METHODS)
def test_endless_source_is_read_in_part(method: str) -> None:
    taken = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(1)
            yield 0

    found = METHODS[method](endless(), read, run, 4)
    assert not taken
    for _ in range(9):
        next(found)
    assert len(taken) <= 9 + (2 * 4 if method == "ahead" else 2 * 3 * 4)
    found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_error_is_raised_and_remaining_batches_are_cancelled(method: str) -> None:
    ran = []

    def broken(pairs: Sequence[stream.Pair]) -> list[Any]:
        ran.append(pairs)
        raise RuntimeError("the network is broken")

    with pytest.raises(RuntimeError, match="network is broken"):
        list(METHODS[method](range(400), read, broken, 2))
    assert len(ran) < 40


def test_last_images_are_distributed_evenly() -> None:
    sizes: list[int] = []

    def counted(pairs: Sequence[stream.Pair]) -> list[Any]:
        sizes.append(len(pairs))
        return run(pairs)

    list(stream.run_in_workers(range(24 + 7), read, counted, 8, 3))
    assert sorted(sizes) == [1, 3, 3, 8, 8, 8]


@needs_workers
def test_workers_use_one_thread_and_other_threads_are_unchanged() -> None:
    threads, seen = torch.get_num_threads(), []

    def recorded(pairs: Sequence[stream.Pair]) -> list[Any]:
        seen.append((torch.get_num_threads(), threading.current_thread().name))
        return run(pairs)

    list(stream.run_in_workers(range(12), read, recorded, 2, 2))
    assert {count for count, _ in seen} == {1}
    assert all(name.startswith("vitkit-worker") for _, name in seen)
    assert torch.get_num_threads() == threads
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]


@needs_workers
def test_predictor_uses_workers_with_close_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3)).eval()
    torch.nn.init.normal_(model.head.weight)
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8) for i in range(21)]
    used: list[int] = []

    def recorded(*arguments: Any) -> Iterator[Any]:
        used.append(1)
        return run_in_workers(*arguments)

    run_in_workers: Callable[..., Iterator[Any]] = stream.run_in_workers
    monkeypatch.setattr(predictor.stream, "run_in_workers", recorded)
    exact = Predictor(model, Processor.squash(32), precision="float32", batch_size=4)
    expected = np.stack([outcome.output for outcome in exact.logits(images)])
    assert not used  # eager operations may use libraries with other thread pools
    fast = Predictor(model, Processor.squash(32), precision="bfloat16", batch_size=4)
    assert isinstance(fast.model, engine.FastModel)
    found = np.stack([outcome.output for outcome in fast.logits(images)])
    assert used
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    used.clear()
    # A single image runs on all threads.
    (one,) = fast.logits(images[:1])
    assert not used
    np.testing.assert_allclose(one.output, found[0], atol=0.02 * np.abs(found).max())
    monkeypatch.setattr(stream, "_can_use_one_thread", lambda: False)
    again = np.stack([outcome.output for outcome in fast.logits(images)])
    assert not used
    np.testing.assert_allclose(again, found, atol=0.02 * np.abs(found).max())
