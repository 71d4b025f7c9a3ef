"""What is in the files of an export: checked graphs, a free batch, and nothing of the machine that wrote them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_exporters import checkpoint, needs, pictures

import vitkit
from vitkit import checkpoints, cli, export

#: What would tell where a graph was made.
HOME = str(Path(vitkit.__file__).parent).encode()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a small model's export, made once for each target."""
    made: dict[str, Path] = {}

    def folder(target: str) -> Path:
        needs(target)
        if target not in made:
            made[target] = tmp_path_factory.mktemp(target) / "out"
            export.export(checkpoint(), made[target], to=target)
        return made[target]

    return folder


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("onnx", ["model.onnx"]),
        pytest.param("openvino", ["model.bin", "model.xml"], marks=pytest.mark.slow),
        ("program", ["model.pt2"]),
    ],
)
def test_the_folder_holds_what_it_takes_and_no_trace_of_the_machine(
    target: str, files: list[str], exported: Callable[..., Path]
) -> None:
    folder = exported(target)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*files, "config.json", "preprocessor_config.json"])
    for path in folder.iterdir():
        data = path.read_bytes()
        assert HOME not in data
        assert b"site-packages" not in data
        assert b"stack_trace" not in data


def test_the_onnx_graph_is_sound_and_its_batch_is_free(exported: Callable[..., Path]) -> None:
    folder = exported("onnx")
    import onnx

    graph = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    (images,) = graph.graph.input
    batch, *rest = images.type.tensor_type.shape.dim
    assert images.name == "images"
    assert batch.dim_param
    assert not batch.dim_value
    assert [dimension.dim_value for dimension in rest] == [3, *checkpoint().model.config.image_size]
    assert [output.name for output in graph.graph.output] == ["logits", "representation", "tokens"]
    assert {entry.domain for entry in graph.opset_import} <= {""}
    assert not graph.functions


def test_the_program_is_one_that_torch_alone_runs(exported: Callable[..., Path]) -> None:
    made = checkpoint()
    module = torch.export.load(exported("program") / "model.pt2").module()
    images = torch.randn(4, 3, *made.model.config.image_size)
    torch.testing.assert_close(module(images)[0], made.model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_openvino_keeps_weights_in_half_the_space(exported: Callable[..., Path], tmp_path: Path) -> None:
    whole = exported("openvino")
    found = export.export(checkpoint(), tmp_path / "half", to="openvino", precision="float16")
    assert 0 < found.difference < 2e-2
    sizes = [(folder / "model.bin").stat().st_size for folder in (tmp_path / "half", whole)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.slow
def test_a_pad_of_zero_before_a_maximum_stays_one(tmp_path: Path) -> None:
    """ONNX Runtime folds it into the pool as minus infinity; BiT's answers were 2.5e-3 off."""
    needs("onnx")
    made = checkpoint("resnet")
    found = export.export(made, tmp_path / "out", to="onnx")
    assert found.difference < 1e-4


def test_the_command_fixes_the_size_and_the_export_classifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = checkpoint()
    checkpoints.save(made, tmp_path / "best", to="vitkit")
    (tmp_path / "photos").mkdir()
    pictures(tmp_path / "photos", 3)
    side = 2 * made.model.config.image_size[0]
    assert cli.main(["export", "best", "--to", "program", "--image-size", str(side)]) == 0
    assert "best-program: program, " in capsys.readouterr().out
    outputs = []
    for model in (["best", "--image-size", str(side)], ["best-program"]):
        assert cli.main(["embed", model[0], "photos", *model[1:], "--out", f"{model[0]}.npz"]) == 0
        with np.load(f"{model[0]}.npz") as arrays:
            outputs.append(arrays["embeddings"])
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)
    capsys.readouterr()
    assert cli.main(["classify", "best-program", "photos", "--csv", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert cli.main(["export", "best", "--to", "program"]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_the_export_of_deit_tiny_answers_as_it_does(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights/deit_tiny_patch16_224"
    if not weights.is_dir():
        pytest.skip("needs weights/deit_tiny_patch16_224 in the shared data folder")
    made = checkpoints.load(weights)
    export.export(made, tmp_path / "out", to="program")
    photos = sorted((shared / "data/imagenet_sample").glob("*.JPEG"))[:4]
    wanted = vitkit.load(weights).classify([str(path) for path in photos], top=1, precision="float32")
    given = vitkit.load(tmp_path / "out").classify([str(path) for path in photos], top=1)
    for (path, one), (same, other) in zip(wanted, given, strict=True):
        assert path == same
        assert one[0].label == other[0].label
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)
