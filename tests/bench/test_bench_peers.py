"""Peers have equal outputs with the same weights, wrong outputs are detected, and invalid specs are rejected."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import cli
from vitkit.bench import Candidate, Job, _inputs, peers
from vitkit.bench.kinds import kind, kinds
from vitkit.bench.measure import parse_options

MODEL = "vit-mu/16"
TORCH_PEERS = ("vitkit", "timm", "transformers", "torchvision")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("bench")
    config, shape, unsupported = _inputs.write_weights(MODEL, folder)
    assert not unsupported
    images = _inputs.write_jpegs(folder / "images", 3)
    return Job(
        kind="inference",
        task="inference",
        model=MODEL,
        batch=2,
        threads=1,
        folder=str(folder),
        image_size=config.image_size,
        shape=shape,
        images=images,
    )


def outputs(job: Job, name: str, precision: str) -> np.ndarray:
    module = peers.peer(name)
    if peers.missing(module):
        pytest.skip(f"{name}: {peers.missing(module)}")
    prepared = getattr(module, job.kind)(job, Candidate(peer=name, precision=precision))
    prepared.run()
    assert prepared.items > 0
    return np.asarray(prepared.outputs, np.float32)


@pytest.mark.parametrize("name", TORCH_PEERS)
def test_logits_agree(job: Job, name: str) -> None:
    reference = outputs(job, "timm", "float32")
    assert reference.std() > 0.1
    difference, is_correct = kind("inference").check_outputs(
        outputs(job, name, "float32"), reference, Candidate(peer=name, precision="float32")
    )
    assert is_correct
    assert difference < 1e-4


@pytest.mark.parametrize("name", TORCH_PEERS)
def test_first_losses_of_training_agree(job: Job, name: str) -> None:
    job = dataclasses.replace(job, kind="training")
    reference = outputs(job, "timm", "float32")
    assert len(set(reference.tolist())) == 3
    difference, is_correct = kind("training").check_outputs(
        outputs(job, name, "float32"), reference, Candidate(peer=name, precision="float32")
    )
    assert is_correct, difference


@pytest.mark.parametrize(("name", "variant"), [("timm", ""), ("transformers", "fast"), ("transformers", "pil")])
def test_pixels_agree_to_one_value(job: Job, name: str, variant: str) -> None:
    job = dataclasses.replace(job, kind="data")
    reference = outputs(job, "vitkit", "")
    difference, is_correct = kind("data").check_outputs(outputs(job, name, variant), reference, Candidate(peer=name))
    assert is_correct
    assert difference <= (1.01 if variant == "fast" else 0.01)


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_predicted_classes_agree(job: Job, name: str) -> None:
    job = dataclasses.replace(job, kind="classification")
    assert outputs(job, name, "").tolist() == outputs(job, "vitkit", "float32").tolist()


@pytest.mark.parametrize("name", sorted({"inference", "training", "classification", "data", "startup"}))
def test_wrong_outputs_are_detected(name: str) -> None:
    reference = np.random.default_rng(0).standard_normal((8, 10)).astype(np.float32) + 3.0
    candidate = Candidate(peer="timm", precision="float32")
    for wrong in (np.roll(reference, 1, axis=0), reference[:4], reference * np.nan):
        assert not kind(name).check_outputs(wrong, reference, candidate)[1]
    assert kind(name).check_outputs(reference.copy(), reference, candidate) == (0.0, True)


def test_wrong_weight_matrix_differs_more_than_rounding(job: Job, tmp_path: Path) -> None:
    from vitkit.checkpoints import load, save

    reference = outputs(job, "timm", "float32")
    loaded = load(f"{job.folder}/vitkit")
    with torch.no_grad():
        loaded.model.blocks[0].mlp.fc2.weight.zero_()
    save(loaded, tmp_path / "vitkit", to="vitkit")
    broken = outputs(dataclasses.replace(job, folder=str(tmp_path)), "vitkit", "float32")
    assert not kind("inference").check_outputs(broken, reference, Candidate(peer="vitkit", precision="int8"))[1]


@pytest.mark.parametrize(
    "precision", ["float32", "bfloat16", "float16", pytest.param("int8", marks=pytest.mark.needs("packs"))]
)
def test_limit_counts_the_operations_of_a_block(job: Job, precision: str) -> None:
    from vitkit.bench import roofline

    rows, width, mlp = 2 * job.shape["tokens"], job.shape["width"], job.shape["mlp_width"]
    prepared = roofline.inference(job, Candidate(peer="limit", precision=precision))
    prepared.run()
    assert prepared.items == 2 * rows * width * (3 * width + width + 2 * mlp)


def test_copy_counts_bytes_read_and_written(job: Job) -> None:
    from vitkit.bench import roofline

    assert roofline.inference(job, Candidate(peer="limit", precision="copy")).items == 2 * 256 * 2**20


def test_limit_uses_dtypes_that_the_cpu_can_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AVX2 CPU packs float32 only, CPUs other than x86 nothing."""
    from vitkit.bench import roofline

    cpu = torch.device("cpu")
    monkeypatch.setattr(roofline, "can_pack", lambda dtype: dtype == torch.float32)
    assert set(roofline._implementations("float32", cpu)) == {"linear", "onednn packed"}
    assert set(roofline._implementations("bfloat16", cpu)) == {"linear", "onednn packed in float32"}
    monkeypatch.setattr(roofline, "can_pack", lambda dtype: False)
    assert (
        set(roofline._implementations("float32", cpu)) == set(roofline._implementations("bfloat16", cpu)) == {"linear"}
    )
    with pytest.raises(ValueError, match=r"peak int8 throughput .* which only x86 CPUs support"):
        roofline._packed_int8(4, 16, 8, cpu)


@pytest.mark.needs("packs")
def test_packed_products_equal_linear() -> None:
    from vitkit.bench import roofline

    torch.manual_seed(0)
    plain = roofline._linear(5, 16, 8, torch.device("cpu"), torch.float32)()
    torch.manual_seed(0)
    torch.testing.assert_close(roofline._packed(5, 16, 8, torch.device("cpu"), torch.float32)(), plain)


def test_specs_are_parsed() -> None:
    found = peers.candidates("inference", "cpu", ["timm", "vitkit:precision=bfloat16:batch_size=4"], ["float32"])
    assert [each.name for each in found] == ["timm float32", "vitkit bfloat16 batch_size=4"]
    names = {each.peer for each in peers.candidates("inference", "cpu", [], ["float32"])}
    assert names == {*TORCH_PEERS, "timm_compiled", "onnxruntime", "openvino"}
    assert [each.precision for each in peers.candidates("data", "cpu", ["transformers"], ["all"])] == ["fast", "pil"]


@pytest.mark.parametrize(
    ("specs", "precisions", "message"),
    [
        (["tim"], ["float32"], r"unknown peer 'tim'; did you mean 'timm'"),
        (["timm"], ["bfloat61"], r"'bfloat61' on this device; did you mean 'bfloat16'"),
        (["timm:precision=int8"], ["float32"], r"timm does not support the precision 'int8'"),
        (["timm:fast"], ["float32"], r"the setting 'fast' of 'timm:fast' is not of the form NAME=VALUE"),
        (["openvino", "vitkit"], ["float64"], r"no library supports the precision 'float64'"),
    ],
)
def test_invalid_specs_are_rejected(specs: list[str], precisions: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peers.candidates("inference", "cpu", specs, precisions)


def test_unsupported_kind_names_supporting_peers() -> None:
    with pytest.raises(
        ValueError, match="'openvino' does not support the benchmark training; choose from vitkit, timm"
    ):
        peers.candidates("training", "cpu", ["openvino"], ["bfloat16"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inferense"], "unknown kind of benchmark 'inferense'; did you mean 'inference'"),
        (["inference", "--model", "vit-b16"], "did you mean 'vit-b/16'"),
        (["inference", "--batch", "many"], "not 'many'"),
        (["inference", "--rounds", "0"], "rounds is 0"),
        (["inference", "--device", "tpu"], "unknown device 'tpu'"),
        (["data", "--images", "no/such/folder"], "no/such/folder"),
    ],
)
def test_command_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_contract_of_kinds() -> None:
    assert kinds() == ["classification", "data", "inference", "startup", "training"]
    for name in kinds():
        module = kind(name)
        options = parse_options(name, {})
        assert module.jobs(options)
        assert {each.peer for each in peers.candidates(name, "cpu", [], options.precisions)} >= {"vitkit", "timm"}
        for peer_name, _ in module.REFERENCES:
            assert hasattr(peers.peer(peer_name), name)


def test_unknown_predictor_setting_is_rejected(job: Job) -> None:
    candidate = Candidate(peer="vitkit", precision="float32", settings=(("batchsize", "3"),))
    with pytest.raises(ValueError, match="no setting 'batchsize'; did you mean 'batch_size'"):
        peers.peer("vitkit").inference(job, candidate)
