"""Every kind of image input: equal to the PIL image, or refused by one sentence that says how to pass it."""

import io
import mmap
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.images import ImageError
from vitkit.inference import Classifier, Predictor

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (40, 50, 3), dtype=np.uint8)
OTHER = GENERATOR.integers(0, 256, (40, 50, 3), dtype=np.uint8)
GRAY = GENERATOR.integers(0, 256, (40, 50), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    return Classifier(model, Processor.squash(32), ("red", "green", "blue"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "photo.png"
    Image.fromarray(PIXELS).save(path)
    Image.fromarray(OTHER).save(path.parent / "other.png")
    return path


def tensor(values: np.ndarray = PIXELS) -> torch.Tensor:
    return torch.from_numpy(values.copy())


class Array:
    """An object that converts itself to an array, as those of JAX do."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return PIXELS.copy()


SINGLE: dict[str, Callable[[Path], object]] = {
    "path": lambda path: path,
    "name": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "BytesIO at its end": lambda path: at_end(path),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "mmap": lambda path: mapped(path),
    "stream that cannot be sought": lambda path: SimpleNamespace(read=io.BytesIO(path.read_bytes()).read),
    "PIL": lambda path: Image.fromarray(PIXELS),
    "PIL of a file": Image.open,
    "numpy HWC": lambda path: PIXELS,
    "numpy CHW": lambda path: PIXELS.transpose(2, 0, 1),
    "numpy in reverse memory order": lambda path: np.asfortranarray(PIXELS),
    "numpy float64 in 0..1": lambda path: PIXELS / 255,
    "numpy float32 in 0..255": lambda path: PIXELS.astype(np.float32),
    "numpy float16 CHW": lambda path: (PIXELS / 255).astype(np.float16).transpose(2, 0, 1),
    "numpy int64": lambda path: PIXELS.astype(np.int64),
    "numpy uint16": lambda path: PIXELS.astype(np.uint16) * 257,
    "numpy read-only": lambda path: np.broadcast_to(PIXELS, PIXELS.shape),
    "array of another library": lambda path: Array(),
    "tensor HWC uint8": lambda path: tensor(),
    "tensor CHW uint8": lambda path: tensor().permute(2, 0, 1),
    "tensor CHW contiguous": lambda path: tensor().permute(2, 0, 1).contiguous(),
    "tensor int32": lambda path: tensor().int(),
    "tensor float16": lambda path: (tensor().permute(2, 0, 1) / 255).half(),
    "tensor bfloat16": lambda path: (tensor().permute(2, 0, 1) / 255).bfloat16(),
    "tensor float64": lambda path: tensor().permute(2, 0, 1).double() / 255,
    "tensor with gradient": lambda path: (tensor().permute(2, 0, 1) / 255).requires_grad_(),
    "tensor batch of one": lambda path: tensor().permute(2, 0, 1)[None],
    "tensor batch channels-last": lambda path: channels_last(),
}
COARSE = {"tensor bfloat16", "numpy float16 CHW", "tensor float16"}


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def at_end(path: Path) -> io.BytesIO:
    file = io.BytesIO(path.read_bytes())
    file.read()
    return file


def channels_last() -> torch.Tensor:
    batch = (tensor().permute(2, 0, 1)[None] / 255).contiguous(memory_format=torch.channels_last)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    return batch


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("kind", SINGLE)
def test_every_input_gives_the_result_of_the_pil_image(classifier: Classifier, photo: Path, kind: str) -> None:
    expected = classifier.processor(Image.fromarray(PIXELS))
    atol = 0.02 if kind in COARSE else 0
    torch.testing.assert_close(classifier.processor(SINGLE[kind](photo)), expected, atol=atol, rtol=0)
    options: Any = {"precision": "float32"}
    (scores,) = [each.scores for each in classifier.classify(Image.fromarray(PIXELS), **options)]
    for given in (SINGLE[kind](photo), [SINGLE[kind](photo)], iter([SINGLE[kind](photo)])):
        (result,) = classifier.classify(given, **options)
        np.testing.assert_allclose(result.scores, scores, atol=1e-2 if kind in COARSE else 1e-6)


@pytest.mark.parametrize("gray", [GRAY, tensor(GRAY), GRAY[..., None], tensor(GRAY)[None], GRAY / 255, GRAY > 127])
def test_grayscale_images(classifier: Classifier, gray: Any) -> None:
    image = Image.fromarray(GRAY if gray.dtype != np.bool_ else (GRAY > 127).astype(np.uint8) * 255)
    torch.testing.assert_close(classifier.processor(gray), classifier.processor(image), atol=0, rtol=0)
    assert len(classifier.classify(gray)) == 1


class Dataset:
    """A map-style data set without __iter__, as torch has them."""

    def __init__(self, items: list[Any]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def batch(values: Any = None) -> np.ndarray:
    return np.stack([PIXELS, OTHER])


MANY: dict[str, Callable[[Path], object]] = {
    "list": lambda path: [path, path.parent / "other.png"],
    "tuple of kinds": lambda path: (path.read_bytes(), Image.fromarray(OTHER)),
    "generator": lambda path: (each for each in (PIXELS, OTHER)),
    "generator that closes its files": lambda path: closing(path, path.parent / "other.png"),
    "one file twice, and another": lambda path: [path.open("rb"), (path.parent / "other.png").open("rb")],
    "members of an archive": lambda path: members(path),
    "data set": lambda path: Dataset([PIXELS, OTHER]),
    "numpy NHWC": lambda path: batch(),
    "numpy NCHW": lambda path: batch().transpose(0, 3, 1, 2),
    "tensor NCHW": lambda path: torch.from_numpy(batch()).permute(0, 3, 1, 2),
    "tensor NHWC float16": lambda path: (torch.from_numpy(batch()) / 255).half(),
    "batches": lambda path: iter([batch()[:1], torch.from_numpy(batch()[1:])]),
    "array of names": lambda path: np.array([str(path), str(path.parent / "other.png")]),
    "folder and file": lambda path: folder_of(path),
    "dict values": lambda path: {"a": PIXELS, "b": OTHER}.values(),
}


def closing(*paths: Path) -> Iterator[Any]:
    for path in paths:
        with path.open("rb") as file:
            yield file


def members(path: Path) -> list[Any]:
    name = path.parent / "images.tar"
    with tarfile.open(name, "w") as archive:
        for each in (path, path.parent / "other.png"):
            archive.add(each, each.name)
    archive = tarfile.open(name)  # noqa: SIM115 - its members are read later
    return [archive.extractfile(each) for each in archive.getnames()]


def folder_of(path: Path) -> list[Any]:
    inner = path.parent / "inner"
    inner.mkdir(exist_ok=True)
    Image.fromarray(PIXELS).save(inner / "a.png")
    return [str(inner), path.parent / "other.png"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", MANY)
def test_several_images_give_the_results_of_the_pil_images(classifier: Classifier, photo: Path, kind: str) -> None:
    expected = [each.scores for each in classifier.classify([Image.fromarray(PIXELS), Image.fromarray(OTHER)])]
    results = classifier.classify(MANY[kind](photo))
    assert len(results) == 2
    for result, scores in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.scores, scores, atol=1e-2 if "float16" in kind else 1e-6)
    vectors = classifier.embed(MANY[kind](photo)).to_numpy()
    assert vectors.shape == (2, 32)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_open_files_are_read_in_order_and_not_by_threads_at_once(classifier: Classifier, photo: Path) -> None:
    file = photo.open("rb")
    expected = [each.scores for each in classifier.classify([photo] * 40)]
    found = classifier.classify([file] * 40)
    for result, scores in zip(found, expected, strict=True):
        np.testing.assert_array_equal(result.scores, scores)
    assert {each.name for each in found} == {str(photo)}
    file.close()
    (closed,) = Predictor(classifier.model, classifier.processor).logits([file])
    assert closed.error is not None
    assert closed.source is file


def test_a_dark_image_in_a_batch_of_floats_is_not_brightened(classifier: Classifier) -> None:
    values = np.stack([PIXELS, np.zeros_like(PIXELS) + 1]).astype(np.float32)
    dark = Image.fromarray(np.ones_like(PIXELS))
    (_, result) = classifier.classify(values)
    (expected,) = classifier.classify(dark)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)


REFUSED: dict[str, tuple[object, str]] = {
    "dict": (
        {"image": PIXELS, "label": 3},
        r"a dict with the keys image, label is not an image; .*pass one of its values",
    ),
    "set": ({"a.jpg", "b.jpg"}, r"an object of type set has no order; pass a list of images, such as sorted\(images\)"),
    "None": (None, "None is not an image; expected a path"),
    "number": (3, "an object of type int is not an image; expected a path"),
    "object": (object(), "an object of type object is not an image; expected a path"),
    "tensor 5-D": (
        torch.zeros(1, 2, 3, 4, 5),
        r"a Tensor of shape \(1, 2, 3, 4, 5\) and dtype float32 is not an image",
    ),
    "tensor 1-D": (
        torch.zeros(7),
        r"a Tensor of shape \(7,\) and dtype float32 is not an image; an image has the shape",
    ),
    "complex": (
        np.zeros((8, 8, 3), np.complex64),
        "and dtype complex64: an image must contain integers, floats or bool",
    ),
    "normalized": (torch.randn(3, 40, 40), r"of shape \(3, 40, 40\) and dtype float32: .*before it is normalized"),
    "normalized batch": (torch.randn(2, 3, 40, 40), r"\(2, 3, 40, 40\) and dtype float32: .*before it is normalized"),
    "not finite": (np.full((8, 8, 3), np.nan), "dtype float64: the image contains NaN"),
    "large integers": (np.full((8, 8, 3), 70000), "values from 0 to 65535, got 70000 to 70000"),
    "negative integers": (torch.full((3, 8, 8), -1), "values from 0 to 65535, got -1 to -1"),
    "gray batch": (np.zeros((10, 28, 28), np.uint8), r"has no channel axis; .*images\[:, None\]"),
    "five channels": (np.zeros((20, 20, 5), np.uint8), "has no channel axis"),
    "meta": (torch.zeros(3, 8, 8, device="meta"), "a tensor on the device meta has no values"),
    "sparse": (torch.zeros(8, 8).to_sparse(), r"a sparse tensor is not an image; pass images\.to_dense\(\)"),
    "text file": (
        io.StringIO("x"),
        r'opened in text mode: read\(\) returned str, not bytes; open it in binary mode with open\(path, "rb"\)',
    ),
    "labelled": ([(PIXELS, 3)], r"a tuple \(ndarray, int\) is not an image; .*pass the images without labels"),
    "data loader": ([[torch.zeros(2, 3, 8, 8), torch.zeros(2)]], r"a list \(Tensor, Tensor\).*without labels"),
    "rows": (
        [{"image": PIXELS}],
        r"a dict with the keys image is not an image; .*row\['image'\] for row in dataset",
    ),
    "nested": (
        [["a.jpg", "b.jpg", "c.jpg"]],
        r"a list \(str, str, str\) is not an image; .*pass one flat list of images",
    ),
    "names in two axes": (np.array([["a.jpg"]]), "is not an image; pass a list of paths"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_by_one_sentence(classifier: Classifier, kind: str) -> None:
    given, message = REFUSED[kind]
    for call in (classifier.classify, classifier.embed, classifier.processor):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(given)
        assert re.search(message, str(caught.value)), str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_invalid_item_does_not_stop_the_others(classifier: Classifier) -> None:
    items = [PIXELS, (PIXELS, 1), torch.randn(2, 3, 8, 8), {"image": PIXELS}, PIXELS]
    results = classifier.classify(items, errors="yield")
    assert [each.error is None for each in results] == [True, False, False, False, True]
    with pytest.raises(ImageError, match=r"^image 1: a tuple"):
        classifier.classify(items)
    with pytest.raises(ImageError, match=r"image 2.*normalized"):
        classifier.classify([PIXELS, PIXELS, torch.randn(2, 3, 8, 8)])
