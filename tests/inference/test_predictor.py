"""Predictor and Classifier: order, unreadable images, batches, precisions and input types."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.images import ImageError, Unlisted, unlisted
from vitkit.inference import Classifier, Predictor, expand, stream, top_predictions
from vitkit.inference.predictor import Options
from vitkit.task import Task

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    return Classifier(model, Processor.squash(32), LABELS)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(11):
        size = (int(generator.integers(20, 60)), int(generator.integers(20, 60)), 3)
        path = tmp_path / f"photo{index:02}.png"
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def test_typed_options_are_those_of_the_predictor() -> None:
    parameters = get_type_hints(Predictor.__init__)
    assert get_type_hints(Options) == {
        name: hint for name, hint in parameters.items() if name not in ("model", "processor")
    }


def test_outcomes_are_in_order_and_equal_the_model(classifier: Classifier, images: list[Path]) -> None:
    predictor = Predictor(classifier.model, classifier.processor, batch_size=4)
    outcomes = list(predictor.logits(images))
    assert [outcome.source for outcome in outcomes] == images
    with torch.no_grad():
        expected = classifier.eval()(classifier.processor(images)).numpy()
    np.testing.assert_allclose(np.stack([outcome.output for outcome in outcomes]), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_unreadable_images_do_not_stop_the_others(classifier: Classifier, images: list[Path], batch_size: int) -> None:
    clean = {o.source: o.output for o in Predictor(classifier.model, classifier.processor).logits(images)}
    images[3].write_bytes(b"this is not an image")
    images[7].unlink()
    outcomes = list(Predictor(classifier.model, classifier.processor, batch_size=batch_size).logits(images))
    assert [outcome.source for outcome in outcomes] == images
    assert [o.error.code if o.error else None for o in outcomes] == [
        {3: "not_an_image", 7: "unreadable"}.get(index) for index in range(11)
    ]
    for outcome in outcomes:
        if outcome.output is not None:
            np.testing.assert_allclose(outcome.output, clean[outcome.source], atol=1e-5)


def test_images_are_read_as_needed(classifier: Classifier, images: list[Path]) -> None:
    read = []

    def endless() -> Iterator[Path]:
        while True:
            read.append(1)
            yield images[len(read) % 11]

    predictor = Predictor(classifier.model, classifier.processor, batch_size=2)
    outcomes = predictor.logits(endless())
    for _ in range(5):
        next(outcomes)
    assert len(read) <= 5 + 2 * 2 * (stream.num_workers() + 1)
    outcomes.close()  # type: ignore[attr-defined]


def test_images_of_several_shapes(classifier: Classifier, images: list[Path]) -> None:
    keep = Processor(size=(32, 32), resize="none")
    for index, path in enumerate(images):
        with Image.open(path) as image:
            image.resize((16 + 16 * (index % 3), 32 + 16 * (index % 2))).save(path)
    outcomes = list(Predictor(classifier.model, keep, batch_size=4).logits(images))
    for path, outcome in zip(images, outcomes, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(outcome.output, classifier(keep(path))[0].numpy(), atol=1e-5)


def test_bfloat16_is_close_and_does_not_change_the_model(classifier: Classifier, images: list[Path]) -> None:
    exact = np.stack([o.output for o in Predictor(classifier.model, classifier.processor).logits(images)])
    half = Predictor(classifier.model, classifier.processor, precision="bfloat16")
    outputs = np.stack([outcome.output for outcome in half.logits(images)])
    assert outputs.dtype == np.float32
    assert not np.array_equal(outputs, exact)
    np.testing.assert_allclose(outputs, exact, atol=0.1 * np.abs(exact).max())
    assert next(classifier.model.parameters()).dtype == torch.float32


def test_embeddings_are_the_input_of_the_head(classifier: Classifier, images: list[Path]) -> None:
    for path, embedding in classifier.embed(images):
        assert embedding.shape == (32,)
        head = classifier.model.head
        with torch.no_grad():
            logits = head(torch.from_numpy(embedding))
            torch.testing.assert_close(logits, classifier(classifier.processor(path))[0], atol=1e-5, rtol=1e-5)


def test_classify_accepts_all_input_types(classifier: Classifier, images: list[Path], tmp_path: Path) -> None:
    first = images[0]
    pixels = np.asarray(Image.open(first))
    (_, expected), *_ = classifier.classify(first)
    assert [p.score for p in expected] == sorted((p.score for p in expected), reverse=True)
    for image in (str(first), first.read_bytes(), Image.open(first), pixels, torch.from_numpy(pixels.copy())):
        (_, predictions), *_ = classifier.classify(image)
        assert [p.label for p in predictions] == [p.label for p in expected]
        assert predictions[0].score == pytest.approx(expected[0].score, abs=1e-5)
    assert len(list(classifier.classify(tmp_path))) == 11
    assert len(list(classifier.classify([str(tmp_path / "photo0*.png"), first]))) == 11
    assert len(list(classifier.classify(iter(images[:2])))) == 2


def test_classify_error_names_the_file(classifier: Classifier, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no")
    with pytest.raises(ImageError, match=r"bad\.jpg: the file is not an image") as caught:
        list(classifier.classify(bad))
    assert caught.value.code == "not_an_image"


def test_scores_are_softmax_best_first() -> None:
    predictions = top_predictions(np.array([1.0, 3.0, 2.0], np.float32), LABELS, top=2, task=Task())
    assert [(p.label, p.index) for p in predictions] == [("green", 1), ("blue", 2)]
    assert predictions[0].score == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum())
    assert len(top_predictions(np.zeros(3, np.float32), LABELS, top=10, task=Task())) == 3
    with pytest.raises(ValueError, match=r"a vector of shape"):
        top_predictions(np.zeros((4, 3), np.float32), LABELS, top=1, task=Task())


def test_number_of_labels_must_match() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    with pytest.raises(ValueError, match=r"the model has 3 classes, but 2 labels were given"):
        Classifier(model, Processor.squash(32), ("a", "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, "unknown precision 'int3'"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not available on this machine"),
        ({"device": "gpu"}, "the device 'gpu' is not available on this machine; choose one of auto, cpu"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_invalid_options_are_named(classifier: Classifier, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(classifier.model, classifier.processor, **options)


def test_expand_folders_globs_and_plain_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/2.jpg", "a.PNG", "notes.txt", ".hidden/x.jpg", "[1].png"):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2)).save(buffer, "PNG")
        (tmp_path / name).write_bytes(buffer.getvalue())
    names = [Path(name).relative_to(tmp_path).as_posix() for name in expand([str(tmp_path)])]
    assert names == ["[1].png", "a.PNG", "b/2.jpg"]
    assert list(expand([str(tmp_path / "[1].png")])) == [str(tmp_path / "[1].png")]
    assert list(expand([str(tmp_path / "*.PNG")])) == [str(tmp_path / "a.PNG")]
    assert list(expand(["no such file.jpg"])) == ["no such file.jpg"]
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "*.webp"), str(tmp_path / "empty"), str(tmp_path / "b")]
    pattern, empty, image = expand(given)
    assert isinstance(pattern, Unlisted)
    assert isinstance(empty, Unlisted)
    assert (str(pattern), str(pattern.error)) == (given[0], "no file matches this pattern")
    assert (str(empty), str(empty.error)) == (given[1], "the folder has no image files")
    assert image == str(tmp_path / "b" / "2.jpg")


def test_a_batch_goes_on_after_an_image_that_cannot_be_read(
    classifier: Classifier, images: list[Path], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    good = str(images[0])
    batch = [good, "no such file.png", np.zeros((2, 2, 2, 2, 2)), None, good]
    for method in (classifier.classify, classifier.embed):
        with pytest.raises(ImageError, match=r"^no such file\.png: the file cannot be opened: it does not exist$"):
            list(method(batch))
        with pytest.raises(ImageError, match=r"^image 1: "):
            list(method([good, batch[2]]))
        caplog.clear()
        rows = list(method(batch, errors="skip"))
        assert [source for source, _ in rows] == [good, good]
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "skipped no such file.png", "skipped image 2", "skipped image 3"
        ]  # fmt: skip
        assert not recwarn
        rows = method(batch, errors="yield")
        assert [each.error is None for each in rows] == [True, False, False, False, True]
        assert len(rows.errors) == 3
        with pytest.raises(ValueError, match="errors is 'ignore'; it must be one of raise, yield, skip"):
            method(batch, errors="ignore")
    outcomes = list(Predictor(classifier.model, classifier.processor).logits([*batch, unlisted("x", "it is gone")]))
    assert [outcome.error is None for outcome in outcomes] == [True, False, False, False, True, False]
    assert str(outcomes[-1].error) == "it is gone"


def test_calibration_images_that_cannot_be_read_are_skipped(
    classifier: Classifier, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(classifier.model, classifier.processor, calibration=["nothing.png", images[0], images[1]])
    assert predictor._calibration_images(None).shape[0] == 2
    assert "skipped a calibration image: nothing.png" in caplog.text


def test_globs_follow_links_and_do_not_loop(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, root = images[0].read_bytes(), tmp_path / "globs"
    for name in ("a/1.png", "a/b/2.png", "3.png"):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(photo)
    (root / "in" / "a" / "up").symlink_to(root / "in")
    (root / "in" / "a" / "again").symlink_to(root / "in")
    (root / "in" / "c").symlink_to(root / "in" / "a" / "b")
    inside = ["3.png", "a/1.png", "a/b/2.png", "c/2.png"]
    for pattern in ("in/**/*.png", "in/**", "i*/**/*.png", "**/*.png"):
        monkeypatch.chdir(root)
        assert list(expand([pattern])) == [f"in/{name}" for name in inside], pattern
        assert list(expand([f"{root}/{pattern}"])) == [f"{root}/in/{name}" for name in inside], pattern
    assert list(expand(["in/**/b/*.png"])) == ["in/a/b/2.png"]


def test_training_mode_is_restored(classifier: Classifier, images: list[Path]) -> None:
    classifier.train()
    first = [outcome.output for outcome in Predictor(classifier.model, classifier.processor).logits(images)]
    assert classifier.model.training
    assert all(module.training for module in classifier.model.modules())
    classifier.model.head.eval()
    list(Predictor(classifier.model, classifier.processor).logits(images))
    assert classifier.model.training
    assert not classifier.model.head.training, "a part in evaluation mode, such as a frozen batch norm, stays in it"
    classifier.eval()
    second = [outcome.output for outcome in Predictor(classifier.model, classifier.processor).logits(images)]
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


def test_outputs_that_are_not_finite_are_errors(images: list[Path]) -> None:
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.constant_(model.head.bias, float("nan"))
    outcomes = list(Predictor(model, Processor.squash(32)).logits(images[:2]))
    assert [outcome.error.code for outcome in outcomes if outcome.error] == ["not_finite"] * 2


def test_progress_bar_does_not_change_outputs(
    classifier: Classifier, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = [outcome.output for outcome in Predictor(classifier.model, classifier.processor).logits(images)]
    shown = Predictor(classifier.model, classifier.processor, progress=True).logits(images)
    np.testing.assert_array_equal(np.stack(quiet), np.stack([outcome.output for outcome in shown]))
    assert capsys.readouterr().out == ""


def test_predictor_is_reused_until_options_change(classifier: Classifier) -> None:
    first = classifier.predictor(batch_size=2)
    assert classifier.predictor(batch_size=2) is first
    assert classifier.predictor(batch_size=3) is not first
    calibrated = classifier.predictor(calibration=[np.zeros((8, 8, 3), np.uint8)])
    assert classifier.predictor(calibration=[np.zeros((8, 8, 3), np.uint8)]) is not calibrated
