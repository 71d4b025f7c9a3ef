"""Class folders: what is found, in which order, how it is split, and what is refused."""

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
def photos(tmp_path: Path) -> Path:
    for number in range(10):
        paint(tmp_path / "rose" / f"{number}.png", number)
    for number in range(5):
        paint(tmp_path / "daisy" / "deeper" / f"{number}.PNG", 100 + number)
    paint(tmp_path / "daisy" / ".hidden.png")
    paint(tmp_path / ".cache" / "0.png")
    (tmp_path / "daisy" / "notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("no class")
    return tmp_path


def test_classes_and_pictures_come_in_the_order_of_their_names(photos: Path) -> None:
    source = data.source(f"folder:{photos}")
    assert source.classes == ("daisy", "rose")
    assert len(source) == 15
    examples = [source.read(index) for index in range(15)]
    assert [example.key for example in examples[:6]] == [*(f"daisy/deeper/{n}.PNG" for n in range(5)), "rose/0.png"]
    assert [example.label for example in examples] == [0] * 5 + [1] * 10
    assert [np.asarray(example.image)[0, 0, 0] for example in examples[4:7]] == [104, 0, 1]
    assert [source.label(index) for index in range(15)] == [0] * 5 + [1] * 10


def test_a_share_of_every_class_is_held_out(photos: Path) -> None:
    training, held_out = data.train_and_val(f"folder:{photos}", held_out=0.2)
    assert (len(training), len(held_out)) == (12, 3)
    assert sorted(held_out.label(index) for index in range(3)) == [0, 1, 1]


def test_train_and_val_folders_are_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        paint(tmp_path / "training" / name / "0.png")
    paint(tmp_path / "Validation" / "c" / "1.png")
    training, held_out = data.train_and_val(f"folder:{tmp_path}")
    assert (len(training), len(held_out)) == (3, 1)
    # A class may be missing in val; its label counts as in training.
    assert held_out.classes == ("a", "b", "c")
    assert held_out.label(0) == held_out.read(0).label == 2
    paint(tmp_path / "Validation" / "d" / "1.png")
    with pytest.raises(ValueError, match="is judged on classes that training lacks: d"):
        data.train_and_val(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="comes in splits: train, val; name one"):
        data.source(f"folder:{tmp_path}")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    for name in ("test", "train", "bus"):
        paint(tmp_path / name / "0.png")
    assert data.source(f"folder:{tmp_path}").classes == ("bus", "test", "train")


def test_another_folder_to_judge_on(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    paint(other / "rose" / "new.png")
    training, held_out = data.train_and_val(f"folder:{photos}", val=f"folder:{other}")
    assert (len(training), len(held_out)) == (15, 1)
    assert held_out.label(0) == 1


def test_what_cannot_be_learned_from_is_refused_by_name(photos: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder '/nowhere'"):
        data.splits("folder:/nowhere")
    with pytest.raises(ValueError, match="there is no folder ''"):
        data.splits("folder:")
    with pytest.raises(ValueError, match="deeper' has no class folders"):
        data.splits(f"folder:{photos / 'daisy' / 'deeper'}")
    (photos / "tulip").mkdir()
    with pytest.raises(ValueError, match=r"the class folder '.*tulip' has no pictures"):
        data.splits(f"folder:{photos}")
    paint(photos / "tulip" / "only.png")
    with pytest.raises(ValueError, match="the class 'tulip' has a single picture"):
        data.train_and_val(f"folder:{photos}")


def test_an_unreadable_picture_is_an_image_error(photos: Path) -> None:
    (photos / "rose" / "0.png").write_bytes(b"not a picture")
    source = Folder(photos)
    with pytest.raises(ImageError, match=r"rose/0\.png: "):
        source.read(5)


def test_the_flowers_at_hand(shared: Path) -> None:
    if not (shared / "data" / "flowers").is_dir():
        pytest.skip("needs data/flowers in the shared folder")
    training, held_out = data.train_and_val(f"folder:{shared / 'data' / 'flowers'}")
    assert training.classes == held_out.classes
    assert len(training) > len(held_out) > 100
    assert held_out.read(0).image.mode == "RGB"
