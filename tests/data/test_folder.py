"""Source `folder`: classes, order, splits and errors."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import data
from vitkit.data.sources.folder import Folder
from vitkit.images import ImageError


def paint(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(10):
        paint(tmp_path / "rose" / f"{number}.png", number)
    for number in range(5):
        paint(tmp_path / "daisy" / "deeper" / f"{number}.PNG", 100 + number)
    paint(tmp_path / "daisy" / ".hidden.png")
    paint(tmp_path / ".cache" / "0.png")
    (tmp_path / "daisy" / "notes.txt").write_text("not an image")
    (tmp_path / "README.md").write_text("not a class")
    return tmp_path


def test_classes_and_images_are_sorted_by_name(images: Path) -> None:
    source = data.source(f"folder:{images}")
    assert source.classes == ("daisy", "rose")
    assert len(source) == 15
    examples = [source.read(index) for index in range(15)]
    assert [example.key for example in examples[:6]] == [*(f"daisy/deeper/{n}.PNG" for n in range(5)), "rose/0.png"]
    assert [example.label for example in examples] == [0] * 5 + [1] * 10
    assert [np.asarray(example.image)[0, 0, 0] for example in examples[4:7]] == [104, 0, 1]
    assert [source.label(index) for index in range(15)] == [0] * 5 + [1] * 10


def test_the_validation_split_is_stratified(images: Path) -> None:
    training, validation = data.train_and_val(f"folder:{images}", held_out=0.2)
    assert (len(training), len(validation)) == (12, 3)
    assert sorted(validation.label(index) for index in range(3)) == [0, 1, 1]


def test_train_and_val_folders_are_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        paint(tmp_path / "training" / name / "0.png")
    paint(tmp_path / "Validation" / "c" / "1.png")
    training, validation = data.train_and_val(f"folder:{tmp_path}")
    assert (len(training), len(validation)) == (3, 1)
    # A class may be missing in val; labels are indices of the training classes.
    assert validation.classes == ("a", "b", "c")
    assert validation.label(0) == validation.read(0).label == 2
    paint(tmp_path / "Validation" / "d" / "1.png")
    with pytest.raises(ValueError, match="has classes that are not in the training data: d"):
        data.train_and_val(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="has several splits: train, val; choose one"):
        data.source(f"folder:{tmp_path}")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    for name in ("test", "train", "bus"):
        paint(tmp_path / name / "0.png")
    assert data.source(f"folder:{tmp_path}").classes == ("bus", "test", "train")


def test_another_folder_for_validation(images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    paint(other / "rose" / "new.png")
    training, validation = data.train_and_val(f"folder:{images}", val=f"folder:{other}")
    assert (len(training), len(validation)) == (15, 1)
    assert validation.label(0) == 1


def test_invalid_folders_raise(images: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder '/nowhere'"):
        data.splits("folder:/nowhere")
    with pytest.raises(ValueError, match="there is no folder ''"):
        data.splits("folder:")
    with pytest.raises(ValueError, match="deeper' has no class folders"):
        data.splits(f"folder:{images / 'daisy' / 'deeper'}")
    (images / "tulip").mkdir()
    with pytest.raises(ValueError, match=r"the class folder '.*tulip' has no images"):
        data.splits(f"folder:{images}")
    paint(images / "tulip" / "only.png")
    with pytest.raises(ValueError, match="the class 'tulip' has only one image"):
        data.train_and_val(f"folder:{images}")


def test_an_unreadable_image_raises_image_error(images: Path) -> None:
    (images / "rose" / "0.png").write_bytes(b"not an image")
    source = Folder(images)
    with pytest.raises(ImageError, match=r"rose/0\.png: "):
        source.read(5)


def test_links_are_followed_and_what_is_no_file_is_skipped_and_named(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    paint(elsewhere / "new.png")
    (images / "lily").symlink_to(elsewhere)
    (images / "lily" / "up").symlink_to(images)  # a loop
    (images / "rose" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(images / "rose" / "pipe.png")
    (images / "gone").symlink_to("nowhere")
    source = Folder(images)
    assert source.classes == ("daisy", "lily", "rose")
    assert source.read(source.keys.index("lily/new.png")).label == 1
    assert set(source.skipped) >= {
        "gone: the path is a link to a file that does not exist",
        "rose/gone.png: the path is a link to a file that does not exist",
        "rose/pipe.png: the path is a named pipe, not a file",
    }
    training, validation = data.train_and_val(f"folder:{images}")
    assert training.skipped == validation.skipped == source.skipped


def test_flowers(shared: Path) -> None:
    if not (shared / "data" / "flowers").is_dir():
        pytest.skip("needs data/flowers in the shared folder")
    training, validation = data.train_and_val(f"folder:{shared / 'data' / 'flowers'}")
    assert training.classes == validation.classes
    assert len(training) > len(validation) > 100
    assert validation.read(0).image.mode == "RGB"
