"""Several labels per image and numbers as targets, from the data to fine-tuning, saving, prediction and reports."""

import csv
import dataclasses
import io
import json
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

import vitkit
from vitkit import checkpoints, data, models
from vitkit.checkpoints.meaning import save_threshold
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.inference import runtimes
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.task import Task
from vitkit.training import Run, RunFolder
from vitkit.training.setup import initial_model
from vitkit.training.targets import inferred_task, with_task

COLORS = ("blue", "green", "red")
EXPORTS = ("program", "onnx", "openvino")
FAST = ("hardware.device=cpu", "hardware.threads=1", "augment.crop.kind=none", "precision=float32")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose color channels are labels, and whose brightness is a number; a small model."""
    root = tmp_path_factory.mktemp("tasks")
    torch.manual_seed(0)
    config = dataclasses.replace(vit.TINY, image_size=(16, 16), num_classes=2, init="truncated")
    made = checkpoints.Checkpoint(model=models.build(config), processor=Processor.squash(16), labels=("a", "b"))
    checkpoints.save(made, root / "model")
    random = np.random.default_rng(0)
    rows, numbers = [], []
    for index in range(64):
        on = random.random(3) < 0.5
        pixels = random.integers(0, 40, (16, 16, 3)) + 180 * on
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{index}.png")
        rows.append({"path": f"{index}.png", "label": [COLORS[2 - band] for band in range(3) if on[band]]})
        level = random.random()
        Image.new("RGB", (16, 16), (int(255 * level),) * 3).save(root / f"gray-{index}.png")
        numbers.append((f"gray-{index}.png", 1900 + 100 * level, round(-10 * level)))
    (root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (root / "numbers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "target", "depth"), *numbers])
    return root


def finetuned(workspace: Path, out: Path, source: str, *arguments: str, settings: tuple[str, ...] = ()) -> Path:
    command = ["finetune", str(workspace / "model"), "--data", source, "--out", str(out), "--batch-size", "16"]
    assert main([*command, *arguments, "--set", *FAST, *settings]) == 0
    return out / "best"


@pytest.fixture(scope="module")
def labels_run(workspace: Path) -> Path:
    source = f"jsonl:{workspace / 'labels.jsonl'}"
    return finetuned(workspace, workspace / "labels", source, "--steps", "60", "--lr", "0.1", "--tune-threshold")


@pytest.fixture(scope="module")
def numbers_run(workspace: Path) -> Path:
    source = f"csv:{workspace / 'numbers.csv'}#target=target,target=depth"
    return finetuned(workspace, workspace / "numbers", source, "--steps", "60", "--lr", "0.02")


def test_several_labels_are_independent_in_every_reader(
    labels_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(labels_run.parent).run()
    assert (run.model.task.problem_type, run.metric) == ("multi_label_classification", "average_precision.mean")
    Image.new("RGB", (16, 16), (210, 210, 210)).save(tmp_path / "white.png")
    classifier = vitkit.load(labels_run)
    ((_, found),) = classifier.classify(str(tmp_path / "white.png"))
    assert min(each.score for each in found) > 0.5
    assert all(each.predicted for each in found)
    assert isinstance(classifier.config.task.threshold, tuple)  # tuned, one per label
    assert main(["classify", str(labels_run), str(tmp_path / "white.png"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["predictions"]
    assert {each["label"]: each["score"] for each in printed} == pytest.approx({x.label: x.score for x in found})
    data_name = f"jsonl:{workspace / 'labels.jsonl'}"
    assert main(["evaluate", str(labels_run), "--data", data_name, "--out", str(tmp_path / "report"), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["average_precision.mean"] > 0.95
    assert metrics["f1.micro"] > 0.9
    assert metrics["calibration.ece"] < 0.4
    for page in (tmp_path / "report" / "report.html", labels_run.parent / "report.html"):
        text = page.read_text()
        assert "mean average precision" in text
        assert "Labels by F1" in text
        assert "with 3 labels" in text or page.parent.name == "report"
        assert "percentage points" in text
        assert "Confusion matrix" not in text
    assert main(["evaluate", str(labels_run), "--data", data_name, "--with", "confusion"]) == 1
    assert "the evaluator 'confusion' is for single_label_classification" in capsys.readouterr().err
    theirs = oracle("transformers").pipeline("image-classification", model=str(labels_run), device="cpu")
    scores = {each["label"]: each["score"] for each in theirs(str(tmp_path / "white.png"))}
    assert {each.label: each.score for each in found} == pytest.approx(scores, abs=2e-2)


def test_a_threshold_selects_the_labels_that_are_shown(
    labels_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (16, 16), (210, 20, 20)).save(tmp_path / "red.png")
    command = ["classify", str(labels_run), str(tmp_path / "red.png")]
    assert main([*command, "--threshold", "0.5", "--csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["label"], row["predicted"]) for row in rows] == [("red", "true")]
    assert main([*command, "--threshold", "1"]) == 0
    assert "no label reaches the threshold" in capsys.readouterr().out
    assert main(command) == 0
    assert "* red" in capsys.readouterr().out
    assert main([*command, "--threshold", "2"]) == 1
    assert "threshold is 2.0; it must be between 0 and 1" in capsys.readouterr().err
    assert main(["classify", str(workspace / "model"), str(tmp_path / "red.png"), "--threshold", "0.5"]) == 1
    assert "has classes that exclude each other; a threshold needs a multi-label model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "to", ["huggingface", "vitkit", "timm", *(pytest.param(to, marks=pytest.mark.slow) for to in EXPORTS)]
)
def test_evaluate_tunes_the_thresholds_and_saves_them_in_the_folder(
    labels_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    model = tmp_path / "model"
    made = checkpoints.load(str(labels_run), config={"task.threshold": 1.0})  # no label is ever predicted
    runtimes.export(made, model, to=to) if to in EXPORTS else checkpoints.save(made, model, to=to)
    rows = [row for row in (workspace / "labels.jsonl").read_text().splitlines() if "blue" not in row]
    data_file = workspace / "not_blue.jsonl"
    data_file.write_text("\n".join(rows))
    command = ["evaluate", str(model), "--data", f"jsonl:{data_file}", "--json"]
    assert main([*command, "--tune-threshold", "--out", str(tmp_path / "report")]) == 0
    out, err = capsys.readouterr()
    first = json.loads(out)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<td>red</td><td>" in page.partition("Tuned thresholds")[2]
    assert ("There are no attention maps" in page) == (to in EXPORTS)
    shown = json.loads(page.partition('id="mistakes-data">')[2].partition("</script>")[0])["rows"]
    assert all((row[7] is not None) == (to not in EXPORTS) for row in shown)
    assert f"saved the thresholds in {model / 'config.json'}" in err
    assert first["metrics"]["f1.micro"] == 0.0
    assert first["metrics"]["f1_tuned.micro"] > 0.9
    found = vitkit.load(model)
    assert found.config.task.problem_type == "multi_label_classification"
    assert list(found.config.task.threshold) == first["threshold"]
    assert first["threshold"][found.labels.index("blue")] == 1.0  # without images it stays
    assert main(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert "threshold" not in second
    assert second["metrics"]["f1.micro"] == first["metrics"]["f1_tuned.micro"]


def test_thresholds_that_cannot_be_saved_are_printed(
    labels_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (labels_run / "config.json").read_bytes()
    command = ["evaluate", str(labels_run), "--data", f"jsonl:{workspace / 'labels.jsonl'}", "--tune-threshold"]
    assert main([*command, "--out", str(tmp_path / "out"), "--set", "task.threshold=0.25"]) == 0
    err = capsys.readouterr().err
    assert (labels_run / "config.json").read_bytes() == before
    printed = shlex.split(
        err.strip().splitlines()[-1].partition("save them in a copy: vitkit ")[2].replace("OUT", str(tmp_path / "copy"))
    )
    assert main(printed) == 0
    tuned = json.loads((tmp_path / "out" / "evaluation.json").read_text())["threshold"]
    assert list(vitkit.load(tmp_path / "copy").config.task.threshold) == pytest.approx(tuned)
    (tmp_path / "weights.safetensors").write_bytes((labels_run / "model.safetensors").read_bytes())
    for source in ("owner/name", tmp_path / "weights.safetensors", tmp_path):
        assert save_threshold(source, (0.5,)) is None
    assert main([*command, "--with", "rank"]) == 1
    assert "tune_threshold needs an evaluator of predictions" in capsys.readouterr().err
    images = ["--data", f"folder:{tmp_path}", "--tune-threshold"]
    assert main(["evaluate", str(workspace / "model"), *images]) == 1
    assert "only for multi-label models, but the model's task is single_label_classification" in capsys.readouterr().err


def test_numbers_are_predicted_in_their_units_by_every_reader(
    numbers_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(numbers_run.parent).run()
    assert (run.model.task.problem_type, run.metric) == ("regression", "regression.r2")
    assert run.model.task.target_mean[0] == pytest.approx(1950, abs=20)
    image = tmp_path / "gray.png"
    Image.new("RGB", (16, 16), (191, 191, 191)).save(image)
    classifier = vitkit.load(numbers_run)
    assert classifier.config.task == run.model.task
    ((_, (year, depth)),) = classifier.classify(str(image))
    assert (year.label, depth.label) == ("target", "depth")
    assert year.value == pytest.approx(1975, abs=15)
    assert depth.value == pytest.approx(-7.5, abs=2)
    assert main(["classify", str(numbers_run), str(image), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["predictions"]
    assert printed[0] == {"label": "target", "index": 0, "value": pytest.approx(year.value)}
    assert main(["classify", str(numbers_run), str(image), "--csv"]) == 0
    assert next(csv.DictReader(capsys.readouterr().out.splitlines()))["value"] == f"{year.value:.9g}"
    assert main(["classify", str(numbers_run), str(image)]) == 0
    shown = capsys.readouterr().out
    assert "%" not in shown
    assert f"{year.value:.6g}" in shown
    source = f"csv:{workspace / 'numbers.csv'}#target=depth,target=target"  # in another order
    assert main(["evaluate", str(numbers_run), "--data", source, "--json", "--out", str(tmp_path / "report")]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["regression.r2"] > 0.9
    assert metrics["regression.target mae"] < 15
    for page in (tmp_path / "report" / "report.html", numbers_run.parent / "report.html"):
        text = page.read_text()
        assert "Errors, in the units of the target" in text
        assert "R2, mean of 2 targets" in text  # no mean of errors in several units
        assert "mean absolute error" not in text
        data = json.loads(text.partition('id="mistakes-data">')[2].partition("</script>")[0])
        assert sorted(data["targets"]) == ["depth", "target"]  # for the captions
        assert "wrong targets" in text
    assert "random split of 20%" in text
    assert "with 2 targets" in text
    assert main(["evaluate", str(numbers_run), "--data", source, "--with", "top1"]) == 1
    assert "the model's task is regression; use regression" in capsys.readouterr().err
    assert main(["evaluate", str(numbers_run), "--data", f"jsonl:{workspace / 'labels.jsonl'}"]) == 1
    assert "has classes (blue, green, red), but regression targets are expected" in capsys.readouterr().err
    theirs = oracle("transformers").AutoModelForImageClassification.from_pretrained(numbers_run).eval()
    with torch.no_grad():
        value = theirs(pixel_values=classifier.processor(str(image))).logits[0, 0].item()
    assert value == pytest.approx(year.value, abs=0.5)


def test_a_head_that_is_trained_further_predicts_the_same_numbers(numbers_run: Path) -> None:
    run = RunFolder(numbers_run.parent).run()
    task = Task(problem_type="regression", target_mean=(0.0, 5.0), target_std=(100.0, 0.5))
    model = dataclasses.replace(run.model, task=task)
    start = dataclasses.replace(run, model=model, init_from=str(numbers_run), init_head="checkpoint")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = vitkit.load(numbers_run)
        expected = before.config.task.scores(before(images).double())
        found = task.scores(initial_model(start).eval()(images).double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_parquet_and_lists_of_floats_are_targets(workspace: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'vitkit[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    encoded = (workspace / "0.png").read_bytes()
    table = pyarrow.table(
        {"image": [encoded] * 3, "label": [0.5, 1.0, -2.0], "count": [1, 2, 3], "name": ["a", "b", "a"]}
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    source = data.source(f"parquet:{tmp_path / 'x.parquet'}")
    assert (source.regression, source.classes, source.targets(2), source.label(2)) == (True, ("label",), (-2.0,), ())
    both = data.source(f"parquet:{tmp_path / 'x.parquet'}#target=count,target=label")
    assert (both.classes, both.targets(1), both.read(1).targets) == (("count", "label"), (2.0, 1.0), (2.0, 1.0))
    assert not data.source(f"parquet:{tmp_path / 'x.parquet'}#label=name").regression
    rows = [{"path": str(workspace / "0.png"), "label": [0.5, index]} for index in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    points = data.source(f"jsonl:{tmp_path / 'x.jsonl'}")
    assert (points.classes, points.targets(2)) == (("label 0", "label 1"), (0.5, 2.0))


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        (["1.5", "nan"], "target", "line 3: the target is 'nan'"),
        (["1.5", ""], "target", "line 3: the target is missing"),
        (["1", "x"], "target", "line 3: the target is 'x'"),
        (["1|2", "3"], "target", "2 targets"),
        (["1", "2"], "other", "has no column 'other'"),
    ],
)
def test_invalid_targets_name_their_line(
    workspace: Path, tmp_path: Path, values: list[str], column: str, message: str
) -> None:
    lines = [f"{workspace / '0.png'},{value}" for value in values]
    (tmp_path / "x.csv").write_text("\n".join(["path,target", *lines]))
    with pytest.raises(ValueError, match=message):
        data.source(f"csv:{tmp_path / 'x.csv'}#target={column}")
    with pytest.raises(ValueError, match="selects a label column and a target column"):
        data.source(f"csv:{tmp_path / 'x.csv'}#target=target,label=target")


class Numbers(data.Source):
    """Targets without images."""

    classes = ("age",)
    regression = True

    def __init__(self, values: list[float]):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def label(self, index: int) -> data.Label:
        return ()

    def targets(self, index: int) -> tuple[float, ...]:
        return (self.values[index],)

    def read(self, index: int, **options: object) -> data.Example:
        return data.Example(image=Image.new("RGB", (8, 8)), label=(), key=str(index), targets=self.targets(index))


def test_the_task_is_inferred_from_the_data_before_the_first_step(small_run: object) -> None:
    assert inferred_task(Numbers([1.0, 3.0])) == Task(problem_type="regression", target_mean=(2.0,), target_std=(1.0,))
    for values, message in (
        ([3.0, 3.0], "all training images have the target age=3; there is nothing to learn"),
        ([1.0, float("inf")], "image 1 has the target age=inf; targets must be finite"),
        ([1e308, -1e308], "too large to standardize"),
    ):
        with pytest.raises(ValueError, match=message):
            inferred_task(Numbers(values))
    run: Run = small_run()  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"are numbers; set objective\.loss=mse"):
        with_task(run, Numbers([1.0, 2.0]))
    numbers = with_task(dataclasses.replace(run, objective=supervised.Config(loss="mse")), Numbers([1.0, 2.0]))
    assert numbers.model.task == inferred_task(Numbers([1.0, 2.0]))
    with pytest.raises(ValueError, match="has classes, but the run predicts numbers"):
        with_task(numbers, data.source("digits"))
    with pytest.raises(ValueError, match=r"loss='softmax' does not fit task.problem_type='regression'"):
        supervised.build(supervised.Config(), models.build(dataclasses.replace(numbers.model, num_classes=1)))


def test_a_recipe_with_independent_labels_gets_their_task(workspace: Path, small_run: object) -> None:
    run: Run = small_run(objective__loss="sigmoid", model__num_classes=3)  # type: ignore[operator]
    source = data.source(f"jsonl:{workspace / 'labels.jsonl'}")
    found = with_task(run, source)
    assert found.model.task == Task(problem_type="multi_label_classification")
    assert (run.evaluators, found.evaluators) == (("top1", "confusion"), ("top1",))
    assert with_task(run, data.source("digits")) == run


def test_a_recipe_predicts_numbers(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "digits.tiny", "--data", f"csv:{workspace / 'numbers.csv'}", "--out", str(tmp_path / "run")]
    settings = ["model.num_classes=1", "steps=3", "epochs=none", "schedule.warmup=1", "batch_size=16", *FAST]
    assert main([*command, "--set", *settings]) == 1
    error = capsys.readouterr().err
    assert "set objective.loss=mse" in error
    settings += ["objective.loss=mse", "objective.label_smoothing=0", 'evaluators=["regression"]']
    assert main([*command, "--set", *settings, "metric=regression.r2"]) == 0
    task = vitkit.load(tmp_path / "run" / "best").config.task
    assert task.problem_type == "regression"
    assert task.target_mean[0] == pytest.approx(1950, abs=20)


def test_the_squared_error_is_that_of_standardized_targets() -> None:
    task = Task(problem_type="regression", target_mean=(10.0,) * 5, target_std=(2.0,) * 5)
    model = models.build(dataclasses.replace(vit.TINY, task=task))
    objective = supervised.build(supervised.Config(loss="mse"), model)
    images, targets = torch.randn(3, 3, 32, 32), torch.full((3, 5), 14.0)
    from vitkit.data.loader import Batch

    loss = objective(Batch(images, targets, tuple("abc")))["loss"]
    with torch.no_grad():
        expected = np.mean([[(logit - 2.0) ** 2 for logit in row] for row in model(images).tolist()])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_numbers_in_a_damaged_shard(
    numbers_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = []
    for name, size in (("train", 48), ("val", 16)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            rows = list(csv.DictReader((workspace / "numbers.csv").read_text().splitlines()))
            for index, row in enumerate(rows[:size] if name == "train" else rows[48:]):
                headers.append(archive.offset)
                archive.add(workspace / row["path"], f"{index:02}.png")
                text = json.dumps({"target": float(row["target"]), "depth": int(row["depth"])}).encode()
                info = tarfile.TarInfo(f"{index:02}.json")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
    for name, number in (("train", 5), ("val", 48 + 3)):
        data = bytearray((tmp_path / f"{name}.tar").read_bytes())
        data[headers[number]] ^= 0xFF
        (tmp_path / f"{name}.tar").write_bytes(data)
    source = f"webdataset:{tmp_path}#target=depth,target=target"
    assert main(["evaluate", str(numbers_run), "--data", source, "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["images"] == 15
    assert found["metrics"]["regression.r2"] > 0.8
    assert len(found["unreadable"]) == 1
    assert "val.tar has damaged data from byte" in found["unreadable"][0]
    assert found["unreadable"][0] in err
    finetuned(workspace, tmp_path / "run", source, "--steps", "2")
    run = RunFolder(tmp_path / "run").run()
    assert run.model.task.problem_type == "regression"
    events = (tmp_path / "run" / "log.jsonl").read_text()
    assert "training data: train.tar has damaged data" in events
    assert "validation data: val.tar has damaged data" in events
