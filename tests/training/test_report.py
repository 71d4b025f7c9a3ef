"""The report is one self-contained HTML file, and its charts show the logged numbers."""

import csv
import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.data.processor import Processor
from vitkit.data.sources.digits import Digits
from vitkit.evaluation import Predictions
from vitkit.evaluation.confusion import matrix
from vitkit.explanation import rollout
from vitkit.models import vit
from vitkit.report import attention, charts, confusion, mistakes, training
from vitkit.training import Run, RunFolder, train
from vitkit.training.summary import load_report, write_report


class Checker(HTMLParser):
    """Checks that all tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def run_folder(small_run: Callable[..., Run], tmp_path: Path) -> RunFolder:
    train(small_run(name="a <small> run", select="last"), tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_the_report_is_one_file_with_all_numbers(run_folder: RunFolder) -> None:
    text = run_folder.report.read_text()
    report = load_report(run_folder)
    wrong = len(mistakes.wrong_predictions(report.predictions))
    assert 0 < wrong < 49, "a run of twelve steps has correct and wrong predictions"
    assert f"{wrong} of 49" in text
    assert f"{(49 - wrong) / 49:.2%}" in text
    assert "a &lt;small&gt; run" in text
    assert "<small> run" not in text
    assert "stratified split of 20%, seed 0" in text
    assert '"held_out": 0.2' in text.replace("&quot;", '"')
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    tags = [tag for tag, _ in checker.seen]
    assert tags.count("svg") == 3
    # Each image with its attention map.
    data = text.partition('id="mistakes-data">')[2].partition("</script>")[0]
    rows = json.loads(data)["rows"]
    assert len(rows) == wrong
    assert all(row[6].startswith("data:image/") and row[7] for row in rows)
    assert "is bright where the model looked: attention rollout" in text
    assert "% MFU" in text
    # One script of our own, its data, and no external files.
    scripts = [attributes for tag, attributes in checker.seen if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "mistakes-data"}, {}]
    assert not {"link", "iframe"} & set(tags)
    assert not re.search(r"https?://", text)
    with (run_folder.path / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["key"] for row in table] == list(report.predictions.keys)
    assert sum(row["correct"] == "false" for row in table) == wrong
    assert '<a href="predictions.csv">' in text


def test_models_without_attention_show_a_gradient_map() -> None:
    source = Digits()
    for family, kind in (("bit", False), ("vit", True)):
        module = models.family(family)
        tiny = dataclasses.replace(module.TINY, num_classes=10)
        model = models.build(tiny)
        for parameter in model.parameters():  # a zero head has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
        assert attention.has_attention(model) is kind
        processor = Processor.squash(model.config.image_size[0])
        best = Checkpoint(model=model, processor=processor, labels=source.classes)
        seen = [view.map for view in attention.views(source, [3, 1, 4, 1, 5], best)]
        assert len(seen) == 5
        assert all(values is not None and values.ndim == 2 for values in seen)
        np.testing.assert_array_equal(seen[1], seen[3])
        assert not np.array_equal(seen[1], seen[0])
    gradient = attention.gradient_map(models.build(models.family("bit").TINY), torch.randn(2, 3, 40, 40))
    assert tuple(gradient.shape) == (2, 2, 2)


def test_the_attention_map_is_the_rollout_of_explain() -> None:
    model, pixels = models.build(vit.TINY), torch.randn(2, 3, *vit.TINY.image_size)
    product, features = rollout.rollout(model, pixels)
    expected = product[:, 0, features.num_special :].reshape(2, *features.grid)
    torch.testing.assert_close(attention.attention_map(model, pixels), expected)


def test_mistakes_are_sorted_by_confidence(run_folder: RunFolder) -> None:
    report = load_report(run_folder)
    scores = report.predictions.scores
    confidences = [float(scores[index].max()) for index in mistakes.wrong_predictions(report.predictions)]
    assert confidences == sorted(confidences, reverse=True)
    for index in mistakes.wrong_predictions(report.predictions):
        assert int(scores[index].argmax()) != report.validation.label(index)
        assert report.predictions.keys[index] == report.validation.read(index).key


def test_logged_metrics_are_those_of_the_saved_model(run_folder: RunFolder) -> None:
    report = load_report(run_folder)
    last = report.of("evaluation")[-1]
    assert report.step == last["step"] == 12
    right = 49 - len(mistakes.wrong_predictions(report.predictions))
    assert last["top1.accuracy"] == pytest.approx(right / 49)


def test_the_report_names_the_selection_of_the_best_model(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(), tmp_path / "run")
    assert "This model is the best of 3 evaluations on these images" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_without_a_model_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no saved model yet"):
        write_report(RunFolder(tmp_path))


def predictions(targets: list[int], predicted: list[int], classes: int) -> Predictions:
    logits = 4.0 * torch.eye(classes)[predicted]
    return Predictions(logits=logits, targets=torch.eye(classes)[targets], keys=tuple(map(str, range(len(targets)))))


def test_confusions_of_many_classes_are_a_list() -> None:
    names = tuple(f"class & {index}" for index in range(30))
    table = confusion.class_section(predictions([0, 1, 2, 2], [0, 1, 1, 2], 30), names)
    assert "Most frequent confusions" in table
    assert "<td>class &amp; 2</td><td>class &amp; 1</td>" in table
    assert 'data-pair="2,1"' in table
    few = confusion.matrix(matrix(predictions([0, 1], [0, 1], 2)).tolist(), ("a", "b"))
    assert few.count('class="hit"') == 2
    assert few.count('class="miss"') == 0


def test_the_coverage_table_drops_the_least_confident() -> None:
    logits = torch.tensor([[4.0, 0.0]] * 9 + [[0.1, 0.0]])
    outputs = Predictions(logits=logits, targets=torch.eye(2)[[0] * 9 + [1]], keys=tuple("abcdefghij"))
    table = confusion.coverage_table(outputs)
    assert "<td>1 of 10</td>" in table
    assert "<td>0 of 9</td>" in table


def test_points_of_a_line_chart_are_at_their_coordinates() -> None:
    line = charts.Line("validation", [(0, 0.0), (50, 0.5), (100, 1.0)], "val", dots=True)
    root = ElementTree.fromstring(charts.line_chart([line], title="t", percent=True, limits=(0.0, 1.0)))
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter("circle")]
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    expected = [(left, bottom), ((left + right) / 2, (top + bottom) / 2), (right, top)]
    assert [pytest.approx(point, abs=0.06) for point in expected] == dots
    assert [dot.findtext("title") for dot in root.iter("circle")][1] == "validation at step 50: 50.00%"


def test_ticks_are_round_and_within_the_range() -> None:
    assert charts.ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(0.0, 2.3) == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert charts.ticks(0.0, 1200, most=4) == pytest.approx([0, 500, 1000])
    with pytest.raises(ValueError, match="the chart 'loss' has no points"):
        charts.line_chart([], title="loss")


def test_smoothing_a_constant_changes_nothing() -> None:
    points = [(float(x), 3.0) for x in range(50)]
    assert charts.smoothed(points) == points


def test_durations() -> None:
    assert [training.duration(seconds) for seconds in (9.4, 97, 3700)] == ["9 s", "1 min 37 s", "1 h 1 min"]


def test_ticks_outside_cover_all_values() -> None:
    assert charts.ticks(1901.0, 1999.0, most=4, outside=True) == [1900.0, 1950.0, 2000.0]
    assert charts.ticks(-9.9, -0.05, most=4, outside=True) == [-10.0, -5.0, 0.0]
    chart = charts.scatter_chart([(1901.0, 1915.0), (1999.0, 1990.0)])
    assert all(f">{mark}</text>" in chart for mark in ("1,900", "1,950", "2,000"))
    assert charts.scatter_chart([(3.0, 3.0)]).count("<circle") == 1
