"""The gallery of mistakes: its data in Python, and its behavior in a browser."""

import base64
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pytest
import torch
from browser import Page, browser
from PIL import Image

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.data import Example, ReadOptions, Source
from vitkit.data.fixes import Part, apply, read_fixes, summary
from vitkit.data.processor import Processor
from vitkit.evaluation import Predictions
from vitkit.images import ImageError
from vitkit.models import vit
from vitkit.report import attention, gallery, mistakes, page, results
from vitkit.task import SINGLE_LABEL, Task

EVIL = ("<script>document.title='hacked'</script>", "a \"b\" 'c' & |d", "=1+1\nx", "plain", "</script><b>", "\u202egnp")
IMAGES = 90
# Elements that reach beyond the window.
OUTSIDE = """[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > innerWidth)
    .map((one) => one.tagName + '.' + one.className)"""


class Colors(Source):
    """Images whose left half is dark and whose right half is bright, with hostile class and file names."""

    def __init__(self, classes: tuple[str, ...], *, size: tuple[int, int] = (48, 40), number: int = IMAGES):
        self.classes, self.size, self.number = classes, size, number
        self.values: dict[int, tuple[float, ...]] = {}

    def __len__(self) -> int:
        return self.number

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def targets(self, index: int) -> tuple[float, ...]:
        return self.values[index]

    def key(self, index: int) -> str:
        return f"{index:03}-<img src=x onerror=alert(1)>,\"'\n.png"

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        if index == 7:
            raise ImageError("unreadable", "it was removed after the evaluation")
        pixels = np.random.default_rng(index).integers(0, 40, (self.size[1], self.size[0], 3), dtype=np.uint8)
        pixels[:, self.size[0] // 2 :] += 180
        return Example(Image.fromarray(pixels), self.label(index), self.key(index))


def wrong_classes(source: Colors, wrong: int) -> Predictions:
    """Predictions of which the first `wrong` are the next class, with decreasing confidence."""
    classes = len(source.classes)
    labels = torch.tensor([source.label(index) for index in range(len(source))])
    found = torch.where(torch.arange(len(source)) < wrong, (labels + 1) % classes, labels)
    logits = torch.eye(classes)[found] * torch.linspace(6, 2, len(source))[:, None]
    keys = tuple(source.key(index) for index in range(len(source)))
    return Predictions(logits, torch.eye(classes)[labels], keys, SINGLE_LABEL)


def checkpoint(classes: tuple[str, ...]) -> Checkpoint:
    config = replace(vit.TINY, num_classes=len(classes))
    torch.manual_seed(0)
    return Checkpoint(model=models.build(config), processor=Processor.crop(config.image_size[0], 0.8), labels=classes)


def write(path: Path, source: Source, predictions: Predictions, model: Checkpoint | None = None) -> str:
    sections = results.sections(source, predictions, model, split="val", links=("predictions.csv",))
    text = page.page("<i>title</i>", "\n".join(sections), gallery.SCRIPT)
    path.write_text(text, encoding="utf-8", newline="")
    return text


def content(text: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="mistakes-data">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_all_mistakes_are_in_the_page(tmp_path: Path) -> None:
    source = Colors(EVIL)
    text = write(tmp_path / "report.html", source, wrong_classes(source, 60), checkpoint(EVIL))
    data = content(text)
    rows = data["rows"]
    assert isinstance(rows, list)
    assert [row[0] for row in rows] == [source.key(index) for index in range(60)]
    assert [row[1] for row in rows] == [[index % 6] for index in range(60)]
    assert [row[2] for row in rows] == [[(index + 1) % 6] for index in range(60)]
    assert "Mistakes: 60" in text
    assert [index for index, row in enumerate(rows) if row[6] is None] == [7]
    assert all((row[6] is None) == (row[7] is None) for row in rows)
    assert '<a href="predictions.csv">' in text
    assert "\u202e" not in text  # marks of text direction are escaped, and \\u202e in JSON
    # Names are text: no element of theirs, also not in the list for browsers without JavaScript.
    for name in (*EVIL, source.key(0)):
        assert name not in text or "<" not in name
    assert re.findall(r"<script[^>]*>", text) == ['<script type="application/json" id="mistakes-data">', "<script>"]
    assert not re.search(r"<[a-z][^>]*\son[a-z]+\s*=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def test_tiles_are_the_crop_with_its_own_map() -> None:
    """Of a wide image the model sees the middle: the tile must not show the whole image."""
    source, model = Colors(EVIL, size=(120, 40)), checkpoint(EVIL)
    (view,) = attention.views(source, [3], model)
    image = source.read(3).image
    assert isinstance(image, Image.Image)
    crop = model.processor.image(image)
    assert view.image is not None
    assert view.map is not None
    assert view.image.tobytes() == crop.tobytes()
    assert view.image.size == model.model.config.image_size[::-1]
    pixels = model.processor([image])
    torch.testing.assert_close(torch.from_numpy(view.map)[None], attention.attention_map(model.model, pixels))
    rows, columns, _ = attention.encoded_map(view.map)
    assert (rows, columns) == tuple(
        side // patch for side, patch in zip(model.model.config.image_size, model.model.config.patch_size, strict=True)
    )


def test_a_very_long_list_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "MAX_ROWS", 20)
    monkeypatch.setattr(mistakes, "MAX_IMAGES", 10)
    source = Colors(EVIL)
    text = mistakes.section(source, wrong_classes(source, 60), None, split="val")
    assert "The first 20 of 60 are shown. The first 9 have an image." in text
    assert len(content(text)["rows"]) == 20  # type: ignore[arg-type]


def test_maps_of_many_patches_are_reduced() -> None:
    values = np.random.default_rng(0).random((64, 32)).astype(np.float32)
    rows, columns, data = attention.encoded_map(values)
    assert (rows, columns) == (16, 16)
    means = values.reshape(16, 4, 16, 2).mean(axis=(1, 3))
    expected = 255 * (means - means.min()) / (means.max() - means.min())
    found = np.frombuffer(base64.b64decode(data), np.uint8).reshape(16, 16)
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert attention.encoded_map(np.ones((2, 2), np.float32)) == (2, 2, "/////w==")


@pytest.mark.slow
def test_a_report_of_500_mistakes_is_below_3_mb(tmp_path: Path) -> None:
    """Of noise, which hardly compresses."""

    class Noise(Colors):
        def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
            pixels = np.random.default_rng(index).integers(0, 256, (256, 300, 3), dtype=np.uint8)
            return Example(Image.fromarray(pixels), self.label(index), self.key(index))

    source = Noise(EVIL, number=520)
    text = write(tmp_path / "report.html", source, wrong_classes(source, 500))
    assert len(text.encode()) < 3_000_000
    assert sum(row[6] is not None for row in content(text)["rows"]) == 500  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return max(tmp_path_factory.getbasetemp().glob("browser*/downloads"))


def cards(tab: Page) -> list[int]:
    return tab.js("[...document.querySelectorAll('article')].map((card) => Number(card.dataset.row))")


def focused(tab: Page) -> str:
    return tab.js("document.activeElement.dataset.row ?? document.activeElement.id")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Colors(EVIL)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path, source, wrong_classes(source, 60), checkpoint(EVIL))
    return path


def fresh(tab: Page, report: Path, **options: int | bool) -> None:
    tab.events.clear()
    tab.open(report, **options)  # type: ignore[arg-type]
    tab.js("localStorage.clear()")
    tab.open(report, **options)  # type: ignore[arg-type]


def test_nothing_is_executed_or_requested(tab: Page, report: Path) -> None:
    fresh(tab, report)
    assert tab.js("document.title") == "<i>title</i>"
    assert tab.js("document.querySelectorAll('#mistakes b, #mistakes script').length") > 0
    assert tab.js("document.querySelectorAll('article img[onerror], article script').length") == 0
    assert tab.js("document.querySelector('article').textContent.includes('<script>document.title')") is True
    assert tab.errors == []
    assert set(tab.requests) == {report.resolve().as_uri()}
    # The policy blocks what an injected handler or script would do.
    tab.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    tab.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title=2'}))")
    tab.wait(lambda: any("Content Security Policy" in error for error in tab.errors) or (tab.js("1") and False))
    assert tab.js("document.title") == "<i>title</i>"


def test_cards_are_added_and_images_decoded_lazily(tab: Page, report: Path) -> None:
    fresh(tab, report)
    assert cards(tab) == list(range(48))
    tab.js("document.querySelector('article').scrollIntoView()")
    tab.wait(lambda: tab.js("document.querySelectorAll('canvas[data-drawn]').length") > 0)
    assert tab.js("document.querySelectorAll('img[src]').length") < 48
    tab.click("#mistakes-more")
    assert cards(tab) == list(range(60))
    assert focused(tab) == "48"
    assert tab.js("document.getElementById('mistakes-more').hidden") is True
    # Multiplied by the map: never brighter than the image, and the lowest value leaves 12 %.
    tab.js("document.querySelector('article').scrollIntoView()")
    script = """(() => { const card = document.querySelector('article'), canvas = card.querySelector('canvas');
        const image = card.querySelector('img'), plain = document.createElement('canvas');
        [plain.width, plain.height] = [canvas.width, canvas.height];
        const context = plain.getContext('2d'); context.imageSmoothingEnabled = false;
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        const sum = (one) => one.getContext('2d').getImageData(0, 0, one.width, one.height).data
            .reduce((total, value, at) => total + (at % 4 < 3 ? value : 0), 0);
        return sum(canvas) / sum(plain); })()"""
    assert 0.12 < tab.js(script) < 0.95


def test_filters_sorting_and_the_matrix(tab: Page, report: Path) -> None:
    fresh(tab, report)
    tab.choose("filter-label", "2")
    assert cards(tab) == list(range(2, 60, 6))
    tab.choose("filter-predicted", "4")
    assert cards(tab) == []
    assert tab.js("document.getElementById('mistakes-status').textContent") == "0 of 60 mistakes, 0 marked"
    tab.click("#filter-reset")
    tab.click('[data-pair="3,4"]')
    assert cards(tab) == list(range(3, 60, 6))
    assert tab.js("document.querySelector('[data-pair=\"3,4\"]').ariaPressed") == "true"
    tab.click('[data-pair="3,4"]')
    assert len(cards(tab)) == 48
    tab.choose("sort-by", "name")
    assert cards(tab)[:3] == [0, 1, 2]
    tab.choose("sort-by", "loss")
    losses = [tab.js("JSON.parse(document.getElementById('mistakes-data').textContent).rows.map((row) => row[5])")]
    assert cards(tab) == sorted(range(60), key=lambda index: -losses[0][index])[:48]
    tab.choose("sort-by", "label")
    names = [EVIL[index % 6] for index in cards(tab)]
    assert len(set(names[:10])) == 1
    tab.js("(() => { const one = document.getElementById('filter-name'); one.value = '04';"
           "one.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert sorted(cards(tab)) == [4, *range(40, 50)]


def test_marks_by_keyboard_are_saved_downloaded_and_applied(
    tab: Page, report: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fresh(tab, report)
    tab.js("document.getElementById('filter-reset').focus()")
    tab.press("Tab")  # the buttons of the marks are disabled, so the next stop is the first card
    assert focused(tab) == "0"
    tab.press("d")
    tab.press("ArrowRight")
    tab.press("ArrowDown")
    columns = int(focused(tab)) - 1
    assert columns > 1
    tab.press("r")
    tab.wait(lambda: tab.js("document.getElementById('relabel').open") is True)
    assert tab.js("document.activeElement.getAttribute('aria-label')") == "new label"
    tab.js(f"document.activeElement.value = {json.dumps(EVIL[2])}")
    tab.press("Enter")
    assert tab.js("document.getElementById('relabel').open") is False
    assert focused(tab) == str(columns + 1)
    tab.press("End")
    assert focused(tab) == "59"
    tab.press("d")
    tab.press("u")
    tab.press("Home")
    assert tab.js("document.querySelector('article[data-row=\"0\"] .drop').ariaPressed") == "true"
    label = tab.js("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("1 of 60, label <script>")
    assert label.endswith("marked: drop")
    tab.press("r")
    tab.press("Escape")
    assert focused(tab) == "0"
    # The browser remembers the marks.
    tab.open(report)
    assert tab.js("document.getElementById('mistakes-status').textContent") == "60 mistakes, 2 marked"
    tab.choose("filter-marks", "marked")
    assert cards(tab) == [0, columns + 1]
    file = downloads(tmp_path_factory) / "fixes.csv"
    file.unlink(missing_ok=True)
    tab.click("#marks-download")
    tab.wait(lambda: file.exists() and file.stat().st_size > 0)
    with file.open(newline="") as opened:
        table = list(csv.DictReader(opened))
    assert list(table[0]) == ["key", "split", "action", "label", "was", "predicted"]
    source = Colors(EVIL)
    assert [row["key"] for row in table] == [source.key(0), source.key(columns + 1)]
    assert [row["label"] for row in table] == ["", "'" + EVIL[2]]  # no formula for a spreadsheet
    (fixed,) = apply([Part(source)], read_fixes(file))
    assert summary(fixed) in (
        "corrections: 1 label changed, 1 image dropped",
        "corrections: 0 labels changed, 1 image dropped, 1 label already correct",
    )
    assert fixed.classes[fixed.label(columns)] == EVIL[2]  # type: ignore[index]
    assert len(fixed) == IMAGES - 1


@pytest.mark.parametrize("width", [400, 650, 1200])
def test_large_matrices_fit(tab: Page, tmp_path: Path, width: int) -> None:
    source = Colors(tuple(f"a class with a long name {index}" for index in range(20)), number=200)
    write(tmp_path / "report.html", source, wrong_classes(source, 150))
    fresh(tab, tmp_path / "report.html", width=width)
    assert tab.js(OUTSIDE) == []
    assert tab.js("document.documentElement.scrollWidth <= innerWidth") is True
    shown = "[...document.querySelectorAll('.matrix, .pairs')].map((one) => one.checkVisibility())"
    assert tab.js(shown) == [width > 640, width <= 640]
    tab.click(f"{'.matrix' if width > 640 else '.pairs'} button")
    label, predicted = (
        int(tab.js(f"document.getElementById('filter-{name}').value")) for name in ("label", "predicted")
    )
    assert [index % 20 for index in cards(tab)] == [label] * len(cards(tab))
    assert predicted == (label + 1) % 20


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_scrolls_sideways(tab: Page, report: Path, dark: bool) -> None:
    fresh(tab, report, width=400, dark=dark)
    wider = """[...document.querySelectorAll('main *')].filter((one) => one.clientWidth > 0
        && one.scrollWidth > one.clientWidth + 1 && !one.closest('svg, .matrix, select')
        && getComputedStyle(one).display !== 'inline').map((one) => one.tagName + '.' + one.className)"""
    for width in (320, 400, 500, 640, 660, 780, 850, 900, 1000, 1200):
        tab.resize(width)
        assert tab.js("document.documentElement.scrollWidth <= innerWidth") is True, width
        assert tab.js(wider) == [], width
        assert tab.js(OUTSIDE) == [], width
    # Readable: bright text by night, dark text by day.
    light = """((one) => { const [r, g, b] = getComputedStyle(one).color.match(/\\d+/g).map(Number);
        return (r + g + b) / 3; })(document.querySelector('article b'))"""
    assert (tab.js(light) > 128) is dark


def test_independent_labels_are_corrected(tab: Page, tmp_path: Path,
                                                 tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    source = Colors(("a", "b|c", "d"), number=6)
    targets = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]])
    keys = tuple(source.key(index) for index in range(6))
    task = Task(problem_type="multi_label_classification")
    write(tmp_path / "several.html", source, Predictions(4 - 8 * targets, targets, keys, task))
    fresh(tab, tmp_path / "several.html")
    assert len(cards(tab)) == 6
    tab.js("document.querySelector('article').focus()")
    assert focused(tab) == "0"
    tab.press("r")
    boxes = "[...document.querySelectorAll('#relabel input[type=checkbox]')]"
    assert tab.js(f"{boxes}.map((box) => Number(box.checked))") == [1, 1, 0]
    tab.js(f"{boxes}.forEach((box) => {{ box.checked = box.value !== 'a'; }})")
    tab.click("#relabel-save")
    file = downloads(tmp_path_factory) / "fixes.csv"
    file.unlink(missing_ok=True)
    tab.click("#marks-download")
    tab.wait(lambda: file.exists() and file.stat().st_size > 0)
    assert [(fix.key, fix.label) for fix in read_fixes(file)] == [(keys[0], '["b|c","d"]')]
    assert tab.errors == []
    tab.open(tmp_path / "several.html", width=400)
    assert tab.js(OUTSIDE) == []


def test_outputs_that_are_not_finite(tab: Page, tmp_path: Path) -> None:
    """Those of a run that has diverged."""
    source = Colors(("a", "b"), number=6)
    outputs = wrong_classes(source, 6)
    outputs.logits[::2] = torch.nan
    write(tmp_path / "report.html", source, outputs)
    fresh(tab, tmp_path / "report.html")
    assert len(cards(tab)) > 0
    numbers = replace(outputs, logits=outputs.logits[:, :1], targets=torch.arange(6.0)[:, None])
    (text,) = [mistakes.section(source, replace(numbers, task=Task(problem_type="regression")))]
    (tmp_path / "numbers.html").write_text(page.page("numbers", text, gallery.SCRIPT))
    fresh(tab, tmp_path / "numbers.html")
    assert len(cards(tab)) == 6
    assert tab.errors == []


def test_numbers_are_corrected(tab: Page, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = Colors(("age",), number=6)
    keys = tuple(source.key(index) for index in range(6))
    values = torch.arange(6.0)[:, None]
    task = Task(problem_type="regression", target_mean=(2.0,), target_std=(1.5,))
    write(tmp_path / "numbers.html", source, Predictions(values**2 / 4 - 2, values, keys, task))
    fresh(tab, tmp_path / "numbers.html", width=400)
    tab.js("document.querySelector('article').focus()")
    row = int(cards(tab)[0])
    tab.press("r")
    tab.js("document.activeElement.value = 'many'")
    tab.press("Enter")
    assert tab.js("document.getElementById('relabel-error').textContent") == "Enter a number."
    tab.js("document.activeElement.value = '-3.5'")
    tab.press("Enter")
    file = downloads(tmp_path_factory) / "fixes.csv"
    file.unlink(missing_ok=True)
    tab.click("#marks-download")
    tab.wait(lambda: file.exists() and file.stat().st_size > 0)
    key = content((tmp_path / "numbers.html").read_text())["rows"][row][0]  # type: ignore[index]
    assert [(fix.key, fix.label) for fix in read_fixes(file)] == [(key, "-3.5")]
    assert tab.errors == []
