"""Folders of images: order, links, loops, and what is no readable file."""

import os
import socket
from pathlib import Path

import pytest

from vitkit.images import ImageError, Unlisted, open_image, subfolders, walk


def names(folder: Path) -> list[str]:
    return [
        os.path.relpath(str(entry), folder) + ("!" if isinstance(entry, Unlisted) else "")
        for entry in walk(str(folder))
    ]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_sorted_and_other_files_left_out(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.JPG", "a/z.png", "a/notes.txt", "a-b/1.png", ".hidden.png", ".git/1.png")))
    assert names(tmp_path) == ["a/z.png", "a-b/1.png", "b.JPG"]
    assert [os.path.relpath(folder, tmp_path) for folder in subfolders(str(tmp_path))] == [".", "a", "a-b"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "in" / "1.png", tmp_path / "out" / "deep" / "2.png")
    root = tmp_path / "x"
    (root / "one").symlink_to(tmp_path / "out")
    (root / "two").symlink_to(tmp_path / "out")  # both are listed
    (root / "file.png").symlink_to(tmp_path / "out" / "deep" / "2.png")
    (tmp_path / "out" / "deep" / "back").symlink_to(root)
    (root / "in" / "self").symlink_to(root / "in")
    assert names(root) == ["file.png", "in/1.png", *(f"{link}/deep/{name}" for link in ("one", "two")
                           for name in ("2.png", "back/file.png", "back/in/1.png"))] or names(root) == [
        "file.png", "in/1.png", "one/deep/2.png", "two/deep/2.png"
    ]  # fmt: skip


def test_links_to_folders_of_links_do_not_multiply(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / str(level)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    touch(tmp_path / "30" / "1.png")
    assert 0 < len(names(tmp_path / "0")) <= 2


def test_what_is_no_readable_file_is_an_error_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "1.png", tmp_path / "locked" / "2.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
    listed = os.listdir

    def refuse(path: str) -> list[str]:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)  # the permissions of a folder do not stop root
    found = {os.path.basename(str(entry)): entry for entry in walk(str(tmp_path))}
    errors = {name: str(entry.error) for name, entry in found.items() if isinstance(entry, Unlisted)}
    assert errors == {
        "gone.png": "the path is a link to a file that does not exist",
        "locked": "the folder cannot be listed: permission denied",
        "loop": "the file cannot be opened: too many levels of symbolic links",
        "pipe": "the path is a named pipe, not a file",
        "socket.png": "the path is a socket, not a file",
    }
    assert set(found) - set(errors) == {"1.png"}


@pytest.mark.parametrize(
    ("name", "kind"), [("pipe", "a named pipe"), ("folder", "a folder"), ("/dev/null", "a device")]
)
def test_what_is_no_file_is_never_opened(tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    def opened(*args: object) -> int:
        raise AssertionError("it was opened")

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(ImageError, match=f"^the path is {kind}, not a file$"):
        open_image(tmp_path / name)
