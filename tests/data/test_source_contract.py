"""The contract of data sources, for one source of each kind of storage."""

from pathlib import Path

import pytest
from PIL import Image

from vitkit.plugins.contracts import Check, source, title


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images of each of two classes, and a table that lists them."""
    folder = tmp_path_factory.mktemp("images")
    rows = ["file_name,label"]
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(3):
            name = f"{label}/{number}.png"
            Image.new("RGB", (20, 24), (40 * number, 90, 10)).save(folder / name)
            rows.append(f"{name},{label}")
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    (folder / "names.txt").write_text("\n".join(f"{folder}/cat/{number}.png" for number in range(3)) + "\n")
    return folder


@pytest.mark.parametrize("check", source.CHECKS, ids=title)
@pytest.mark.parametrize(
    "name", ["digits", "part:number=3@digits", "folder:{}", "csv:{}/images.csv", "list:{}/names.txt"]
)
def test_a_source_keeps_the_contract(name: str, check: Check, images: Path) -> None:
    check(name.format(images))
