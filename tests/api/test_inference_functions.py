"""`vitkit.classify`, `embed`, `explain`, `export`, `convert` and `load`: examples, results, signatures and errors."""

import doctest
import inspect
import io
import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.data.processor import Processor
from vitkit.images import ImageError
from vitkit.inference import Classifications, Classifier, Embeddings, Predictor
from vitkit.inference.predictor import Options

FUNCTIONS = ("classify", "convert", "embed", "explain", "export", "load")
LABELS = ("cat", "dog", "daisy", "rose", "horse")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the examples: a tiny model under the Hub's name, photos, and an original .npz."""
    folder = tmp_path_factory.mktemp("examples")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=5, activation="gelu_tanh"))
    torch.nn.init.normal_(model.head.weight)
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=LABELS)
    checkpoints.save(checkpoint, folder / "google" / "vit-base-patch16-224")
    checkpoints.save_checked(checkpoint, folder / "ViT-B_16.npz", to="npz", lossy=True)
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("cat.jpg", "dog.jpg", "photos/a.jpg", "photos/b.png"):
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> Classifier:
    return vitkit.load(place / "google" / "vit-base-patch16-224")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_in_the_docstrings_run(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    examples = doctest.DocTestParser().get_examples(getattr(vitkit, name).__doc__)
    assert len(examples) >= 3
    names: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()):
        for example in examples:
            exec(compile(example.source, name, "single"), names)  # the examples are ours


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_options_are_typed_and_documented(name: str) -> None:
    function = getattr(vitkit, name)
    parameters = inspect.signature(function).parameters.values()
    assert not [each for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    hints = get_type_hints(function)
    assert set(hints) == {"return", *(each.name for each in parameters)}
    assert Any not in [hints[each] for each in hints if each not in ("images", "calibration")]
    assert not [each.name for each in parameters if f"\n        {each.name}: " not in function.__doc__]


def test_no_method_of_a_classifier_takes_untyped_options() -> None:
    for name, method in inspect.getmembers(Classifier, inspect.isfunction):
        if method.__module__.startswith("vitkit"):
            assert not [each for each in inspect.signature(method).parameters.values() if each.annotation == "Any"], (
                name
            )
            assert "**options: Any" not in str(inspect.signature(method)).replace("typing.", ""), name


@pytest.mark.parametrize("name", ["classify", "embed"])
def test_the_functions_have_every_option_of_the_predictor(name: str) -> None:
    parameters = inspect.signature(getattr(vitkit, name)).parameters
    assert set(get_type_hints(Options)) <= set(parameters)
    defaults = inspect.signature(Predictor.__init__).parameters
    for option in get_type_hints(Options):
        assert parameters[option].default == defaults[option].default, option


def test_results_are_a_sequence_in_the_order_of_the_images(model: Classifier, place: Path) -> None:
    results = vitkit.classify(model, [place / "dog.jpg", str(place / "photos"), place / "cat.jpg"])
    assert isinstance(results, Classifications)
    assert [Path(each.name).name for each in results] == ["dog.jpg", "a.jpg", "b.png", "cat.jpg"]
    assert len(results) == 4
    assert results[-1].image == place / "cat.jpg"
    assert [each.name for each in results[1:3]] == [results[1].name, results[2].name]
    assert isinstance(results[1:3], Classifications)
    image, predictions = results[0]
    assert (image, predictions) == (place / "dog.jpg", results[0].predictions)
    assert len(predictions) == 5
    assert results[0].top(2) == predictions[:2]
    assert (results[0].label, results[0].score) == (predictions[0].label, predictions[0].score)
    assert [len(each.predictions) for each in results.top(3)] == [3, 3, 3, 3]
    assert results[0].scores is not None
    assert float(results[0].scores.sum()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        results.top(0)
    assert pickle.loads(pickle.dumps(results))[0].predictions == predictions


def test_a_result_is_indexed_as_a_tuple_of_image_and_output(model: Classifier) -> None:
    image = Image.new("RGB", (40, 40))
    result = next(iter(model.classify(image)))
    assert result[0] is image
    assert result[1] == result[-1] == result.predictions
    embedding = model.embed(image)[0]
    assert embedding[0] is image
    assert np.array_equal(embedding[1], embedding.vector)
    with pytest.raises(IndexError):
        result[2]


def test_the_same_results_from_a_path_a_model_and_a_stream(model: Classifier, place: Path) -> None:
    folder = place / "google" / "vit-base-patch16-224"
    expected = [each.predictions for each in vitkit.classify(model, place / "photos")]
    assert [each.predictions for each in vitkit.classify(str(folder), [place / "photos"])] == expected
    stream = vitkit.classify(folder, place / "photos", stream=True)
    assert isinstance(stream, Iterator)
    assert [each.predictions for each in stream] == expected


def test_a_stream_reads_images_as_needed(model: Classifier, place: Path) -> None:
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield place / "cat.jpg"

    for function in (vitkit.classify, vitkit.embed):
        read = 0
        stream = function(model, endless(), batch_size=2, stream=True)
        next(stream)
        assert read < 50
        stream.close()  # type: ignore[attr-defined]


def test_the_repr_of_results_fits_a_terminal(model: Classifier, place: Path) -> None:
    results = vitkit.classify(model, [place / "cat.jpg"] * 12)
    lines = repr(results).splitlines()
    assert lines[0] == "Classifications of 12 images"
    assert lines[-1] == "  ... and 2 more"
    assert max(map(len, lines)) <= 80
    assert repr(results[0]).startswith(f"Classification('{place / 'cat.jpg'}': {results[0].label} ")
    bad = vitkit.classify(model, [place / "cat.jpg", "gone\x1b.jpg"], errors="yield")
    assert "Classifications of 2 images, 1 not readable" in repr(bad)
    assert repr(bad).isascii()
    assert "\x1b" not in repr(bad)
    assert "width 32, norm " in repr(vitkit.embed(model, place / "cat.jpg"))
    assert repr(model.checkpoint()).startswith("Checkpoint(vit, ")


def test_an_error_is_raised_yielded_or_skipped(
    model: Classifier, place: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [place / "cat.jpg", "gone.jpg", b"text", place / "dog.jpg"]
    for function in (vitkit.classify, vitkit.embed):
        with pytest.raises(ImageError, match=r"^gone\.jpg: the file cannot be opened: it does not exist"):
            function(model, images)
        results = function(model, images, errors="yield")
        assert [each.error.code if each.error else None for each in results] == [
            *(None, "unreadable", "not_an_image", None)
        ]
        assert len(results.errors) == 2
        caplog.clear()
        assert [each.image for each in function(model, images, errors="skip")] == [images[0], images[3]]
        assert [record.getMessage().split(":")[0] for record in caplog.records] == [
            *("skipped gone.jpg", "skipped image 2")
        ]
    explanation = vitkit.explain(model, images, errors="yield")
    assert (len(explanation), len(explanation.errors)) == (2, 2)
    assert len(vitkit.explain(model, images, errors="skip")) == 2
    for function in (vitkit.explain, vitkit.classify):
        with pytest.raises(ImageError, match=r"^gone\.jpg: "):
            function(model, images)
    with pytest.raises(ImageError, match="the file is not an image"):
        vitkit.explain(model, [b"text"], errors="skip")
    assert capfd.readouterr().err == ""


def test_predictions_are_saved_by_suffix(model: Classifier, place: Path, tmp_path: Path) -> None:
    results = vitkit.classify(model, [place / "cat.jpg", "gone.jpg"], top=2, errors="yield")
    results.save(tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows == [each.to_dict() for each in results]
    assert [each["label"] for each in rows[0]["predictions"]] == [each.label for each in results[0].predictions]
    assert rows[1]["error"]["code"] == "unreadable"
    results.save(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "path,rank,label,index,score,error"
    assert len(lines) == 4
    assert lines[3] == "gone.jpg,,,,,unreadable"
    assert lines[1].split(",")[4] == f"{results[0].score:.6f}"
    results[0].save(str(tmp_path / "b.csv"))
    assert (tmp_path / "b.csv").read_text().splitlines() == lines[:3]
    with pytest.raises(ValueError, match=r"its name must end in \.csv, \.jsonl, \.parquet"):
        results.save(tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match=r"the folder '.*nowhere' of the output file does not exist"):
        results.save(tmp_path / "nowhere" / "a.csv")


def test_predictions_as_parquet_and_pandas(model: Classifier, place: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="tables of pandas")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra: pip install 'vitkit[data]'")
    results = vitkit.classify(model, [place / "cat.jpg", "gone.jpg"], top=2, errors="yield")
    table = results.to_pandas()
    assert list(table.columns) == ["path", "rank", "label", "index", "score", "error"]
    assert table["label"].tolist()[:2] == [each.label for each in results[0].predictions]
    assert len(results.top(1).to_pandas()) == 2
    results.save(tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist()[0]["score"] == results[0].score
    embeddings = vitkit.embed(model, [place / "cat.jpg", "gone.jpg"], blocks=(0, -1), errors="yield")
    assert isinstance(embeddings, Embeddings)
    assert embeddings.to_pandas().shape == (1, 32)
    embeddings.save(tmp_path / "e.parquet")
    (row,) = parquet.read_table(tmp_path / "e.parquet").to_pylist()
    np.testing.assert_array_equal(np.float32(row["embedding"]), embeddings[0].vector)
    assert isinstance(table, pandas.DataFrame)


@pytest.mark.parametrize(
    ("module", "how"), [("pandas", "pip install pandas"), ("pyarrow", r"pip install 'vitkit\[data\]'")]
)
def test_a_missing_library_is_one_sentence(
    model: Classifier, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, how: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    results = vitkit.classify(model, place / "cat.jpg")
    with pytest.raises(ImportError, match=f"needs {module}, which is not installed: {how}"):
        results.to_pandas() if module == "pandas" else results.save(tmp_path / "a.parquet")


def test_embeddings_are_arrays_and_are_saved(model: Classifier, place: Path, tmp_path: Path) -> None:
    images = [place / "cat.jpg", place / "dog.jpg"]
    results = vitkit.embed(model, [*images, "gone.jpg"], blocks=(0,), errors="yield")
    assert results.to_numpy().shape == (2, 32)
    np.testing.assert_array_equal(np.asarray(results[0]), results[0].vector)
    assert results[0].blocks[0].shape == (32,)
    (image, vector), *_ = results
    assert image == images[0]
    assert vector is results[0].vector
    results.save(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        np.testing.assert_array_equal(file["embeddings"], results.to_numpy())
        assert file["paths"].tolist() == [str(image) for image in images]
        assert file["block_0"].shape == (2, 32)
    results.save(tmp_path / "e.jsonl")
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 2
    vitkit.embed(model, images).save(tmp_path / "e.csv")
    assert len((tmp_path / "e.csv").read_text().splitlines()[1].split(",")) == 33
    with pytest.raises(ValueError, match=r"a \.csv file has no place for the outputs of blocks"):
        results.save(tmp_path / "e.csv")
    with pytest.raises(ValueError, match="no image could be read"):
        results[2:].save(tmp_path / "e.npz")
    with pytest.raises(ValueError, match="as_maps needs blocks"):
        vitkit.embed(model, images, as_maps=True)
    with pytest.raises(ValueError, match=r"gone\.jpg cannot be read: .* so it has no embedding"):
        np.asarray(results[2])


def test_results_are_shown_as_text_without_a_display(
    model: Classifier, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    results = vitkit.classify(model, [place / "cat.jpg", "gone.jpg"], top=1, errors="yield")
    results.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(place / "cat.jpg")
    assert lines[1].startswith(f"  {results[0].score:>7.2%}  #")
    assert lines[3] == "  cannot be read: the file cannot be opened: it does not exist"
    vitkit.explain(model, place / "cat.jpg").show()
    assert "Explanation('Attention rollout" in capsys.readouterr().out


def test_results_are_shown_in_a_window_and_in_a_notebook(
    model: Classifier, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self))
    results = vitkit.classify(model, [place / "cat.jpg", "gone.jpg"], errors="yield")
    for each in (results, results[0], vitkit.embed(model, place / "cat.jpg"), vitkit.explain(model, place / "cat.jpg")):
        each.show()
    assert len(shown) == 4
    assert len(np.unique(np.asarray(shown[0]))) > 100
    display = SimpleNamespace(display=lambda each: shown.append(each))
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=display)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    results.show()
    assert shown[4] is results
    page = results._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "cannot be read" in page
    assert "<script" not in vitkit.classify(model, ["<script>.jpg"], errors="yield")._repr_html_()
    assert vitkit.explain(model, place / "cat.jpg")._repr_png_()[:4] == b"\x89PNG"


def test_an_explanation_is_a_sequence_of_images(model: Classifier, place: Path, tmp_path: Path) -> None:
    images = [place / "cat.jpg", place / "dog.jpg"]
    for method in ("rollout", "attention", "gradient", "foreground", "pca"):
        explanation = vitkit.explain(model, images, method=method)
        assert len(explanation) == 2
        alone = explanation[1]
        assert len(alone) == 1
        for name, values in explanation.maps.items():
            np.testing.assert_array_equal(alone.maps[name], values[1:])
        assert [len(each) for each in explanation] == [1, 1]
        assert explanation.errors == ()
    explanation.save(tmp_path / "a.png")
    explanation.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["colors"], explanation.arrays["colors"])
    with pytest.raises(ValueError, match=r"must end in \.png \(drawing\) or \.npz \(arrays\)"):
        explanation.save(tmp_path / "a.jpg")
    assert len(vitkit.explain(model, method="positions")) == 1
    with pytest.raises(IndexError):
        explanation[2]


def test_a_loaded_model_takes_no_options_of_loading(model: Classifier, place: Path) -> None:
    with pytest.raises(ValueError, match="the model is loaded already, so image_size cannot change it"):
        vitkit.classify(model, place / "cat.jpg", image_size=64)
    for wrong in (None, 3, model.model):
        with pytest.raises(TypeError, match=r"expected a classifier of vitkit\.load, a folder, a file or a Hub id"):
            vitkit.classify(wrong, place / "cat.jpg")  # type: ignore[arg-type]
    (larger,) = vitkit.classify(place / "google" / "vit-base-patch16-224", place / "cat.jpg", image_size=64)
    assert larger.label in LABELS


def test_an_export_is_the_path_of_its_folder(model: Classifier, place: Path, tmp_path: Path) -> None:
    exported = vitkit.export(model, tmp_path / "out", to="program", overwrite=True)
    assert repr(exported).startswith(f"Exported('{tmp_path / 'out'}': program, ")
    expected = [each.label for each in vitkit.classify(model, place / "photos", precision="float32")]
    assert [each.label for each in vitkit.classify(exported, place / "photos")] == expected
    with pytest.raises(ValueError, match="the model is an export already"):
        vitkit.export(exported, tmp_path / "again", to="program")
