"""Reading and computing at once, in both ways: order, what is refused, how far ahead, threads that run alone."""

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

WAYS = {"ahead": stream.ahead, "lanes": partial(stream.in_lanes, lanes=3)}
needs_lanes = pytest.mark.skipif(not stream._can_be_alone(), reason="needs a torch that runs on OpenMP's threads")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def read(image: int) -> np.ndarray:
    if image % 5 == 4:
        raise ImageError("not_an_image", f"{image} is none")
    return np.array([image])


def run(pairs: Sequence[stream.Pair]) -> list[Any]:
    return [found if isinstance(found, ImageError) else (image, int(found[0])) for image, found in pairs]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 12, 13, 40])
def test_all_come_in_order_and_what_cannot_be_read_says_so(way: str, count: int) -> None:
    found = list(WAYS[way](range(count), read, run, 4))
    assert len(found) == count
    for image, what in enumerate(found):
        if image % 5 == 4:
            assert isinstance(what, ImageError)
            assert str(image) in str(what)
        else:
            assert what == (image, image)


@pytest.mark.parametrize("way", WAYS)
def test_an_endless_source_is_read_a_little_ahead(way: str) -> None:
    taken = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(1)
            yield 0

    found = WAYS[way](endless(), read, run, 4)
    assert not taken
    for _ in range(9):
        next(found)
    assert len(taken) <= 9 + (2 * 4 if way == "ahead" else 2 * 3 * 4)
    found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS)
def test_what_fails_is_raised_and_the_rest_is_dropped(way: str) -> None:
    ran = []

    def broken(pairs: Sequence[stream.Pair]) -> list[Any]:
        ran.append(pairs)
        raise RuntimeError("the network is broken")

    with pytest.raises(RuntimeError, match="network is broken"):
        list(WAYS[way](range(400), read, broken, 2))
    assert len(ran) < 40


def test_the_last_pictures_are_shared_evenly() -> None:
    sizes: list[int] = []

    def counted(pairs: Sequence[stream.Pair]) -> list[Any]:
        sizes.append(len(pairs))
        return run(pairs)

    list(stream.in_lanes(range(24 + 7), read, counted, 8, 3))
    assert sorted(sizes) == [1, 3, 3, 8, 8, 8]


@needs_lanes
def test_a_lane_runs_alone_and_nobody_else_hears_of_it() -> None:
    threads, seen = torch.get_num_threads(), []

    def told(pairs: Sequence[stream.Pair]) -> list[Any]:
        seen.append((torch.get_num_threads(), threading.current_thread().name))
        return run(pairs)

    list(stream.in_lanes(range(12), read, told, 2, 2))
    assert {count for count, _ in seen} == {1}
    assert all(name.startswith("vitkit-lane") for _, name in seen)
    assert torch.get_num_threads() == threads
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]


@needs_lanes
def test_the_predictor_takes_lanes_where_they_are_faster_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3)).eval()
    torch.nn.init.normal_(model.head.weight)
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8) for i in range(21)]
    used: list[int] = []

    def spied(*given: Any) -> Iterator[Any]:
        used.append(1)
        return in_lanes(*given)

    in_lanes: Callable[..., Iterator[Any]] = stream.in_lanes
    monkeypatch.setattr(predictor.stream, "in_lanes", spied)
    exact = Predictor(model, Processor.squash(32), precision="float32", batch_size=4)
    alone = np.stack([outcome.output for outcome in exact.logits(images)])
    assert not used  # the model's own operations may use libraries with threads of their own
    fast = Predictor(model, Processor.squash(32), precision="bfloat16", batch_size=4)
    assert isinstance(fast.model, engine.Fast)
    found = np.stack([outcome.output for outcome in fast.logits(images)])
    assert used
    np.testing.assert_allclose(found, alone, atol=0.05 * np.abs(alone).max())
    used.clear()
    # One picture has all threads.
    (one,) = fast.logits(images[:1])
    assert not used
    np.testing.assert_allclose(one.output, found[0], atol=0.02 * np.abs(found).max())
    monkeypatch.setattr(stream, "_can_be_alone", lambda: False)
    again = np.stack([outcome.output for outcome in fast.logits(images)])
    assert not used
    np.testing.assert_allclose(again, found, atol=0.02 * np.abs(found).max())
