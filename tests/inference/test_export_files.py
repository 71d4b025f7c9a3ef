"""Files of an export: valid graphs, a dynamic batch size, and no local paths."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_exporters import checkpoint, images_in, needs

import vitkit
from vitkit import checkpoints, cli
from vitkit.inference import runtimes

#: Local path that must not be in the files.
HOME = str(Path(vitkit.__file__).parent).encode()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports a small model once per target and returns the folder."""
    folders: dict[str, Path] = {}

    def folder(target: str) -> Path:
        needs(target)
        if target not in folders:
            folders[target] = tmp_path_factory.mktemp(target) / "out"
            runtimes.export(checkpoint(), folders[target], to=target)
        return folders[target]

    return folder


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("onnx", ["model.onnx"]),
        pytest.param("openvino", ["model.bin", "model.xml"], marks=pytest.mark.slow),
        ("program", ["model.pt2"]),
    ],
)
def test_folder_has_the_expected_files_without_local_paths(
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


def test_onnx_graph_is_valid_with_dynamic_batch_size(exported: Callable[..., Path]) -> None:
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


def test_program_runs_in_torch_without_vitkit(exported: Callable[..., Path]) -> None:
    made = checkpoint()
    module = torch.export.load(exported("program") / "model.pt2").module()
    images = torch.randn(4, 3, *made.model.config.image_size)
    torch.testing.assert_close(module(images)[0], made.model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_openvino_float16_weights_take_half_the_size(exported: Callable[..., Path], tmp_path: Path) -> None:
    float32 = exported("openvino")
    result = runtimes.export(checkpoint(), tmp_path / "half", to="openvino", precision="float16")
    assert 0 < result.difference < 2e-2
    sizes = [(folder / "model.bin").stat().st_size for folder in (tmp_path / "half", float32)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.slow
def test_zero_padding_before_max_pool_is_preserved(tmp_path: Path) -> None:
    """ONNX Runtime folds it into the pool as minus infinity, which changes BiT's outputs by 2.5e-3."""
    needs("onnx")
    made = checkpoint("bit")
    result = runtimes.export(made, tmp_path / "out", to="onnx")
    assert result.difference < 1e-4


def test_export_command_sets_the_image_size_and_the_export_classifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = checkpoint()
    checkpoints.save(made, tmp_path / "best", to="vitkit")
    (tmp_path / "photos").mkdir()
    images_in(tmp_path / "photos", 3)
    side = 2 * made.model.config.image_size[0]
    assert cli.main(["export", "best", "--to", "program", "--image-size", str(side)]) == 0
    assert "best-program: program, " in capsys.readouterr().out
    outputs = []
    for model in (["best", "--image-size", str(side)], ["best-program"]):
        assert cli.main(["embed", model[0], "photos", *model[1:], "--out", f"{model[0]}.npz"]) == 0
        with np.load(f"{model[0]}.npz") as arrays:
            outputs.append(arrays["embeddings"])
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)
    assert cli.main(["embed", "best-program", "photos", "--blocks", "0"]) == 1
    assert "if it is exported, load its checkpoint" in capsys.readouterr().err
    assert cli.main(["classify", "best-program", "photos", "--csv", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert cli.main(["export", "best", "--to", "program"]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_export_of_deit_tiny_has_the_same_predictions(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights/deit_tiny_patch16_224"
    if not weights.is_dir():
        pytest.skip("needs weights/deit_tiny_patch16_224 in the shared data folder")
    made = checkpoints.load(weights)
    runtimes.export(made, tmp_path / "out", to="program")
    paths = sorted((shared / "data/imagenet_sample").glob("*.JPEG"))[:4]
    expected = vitkit.load(weights).classify([str(path) for path in paths], top=1, precision="float32")
    actual = vitkit.load(tmp_path / "out").classify([str(path) for path in paths], top=1)
    for (path, one), (same, other) in zip(expected, actual, strict=True):
        assert path == same
        assert one[0].label == other[0].label
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)
