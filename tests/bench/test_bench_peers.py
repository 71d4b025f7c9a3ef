"""Peers answer alike from the same weights, a wrong one is found out, and words that mean nothing are refused."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import cli
from vitkit.bench import Contender, Job, _inputs, peers
from vitkit.bench.kinds import kind, kinds
from vitkit.bench.measure import options_of

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
    config, shape, obstacles = _inputs.write_weights(MODEL, folder)
    assert not obstacles
    photos = _inputs.write_jpegs(folder / "photos", 3)
    return Job(
        kind="inference",
        task="inference",
        model=MODEL,
        batch=2,
        threads=1,
        folder=str(folder),
        image_size=config.image_size,
        shape=shape,
        photos=photos,
    )


def outputs(job: Job, name: str, precision: str) -> np.ndarray:
    module = peers.peer(name)
    if peers.missing(module):
        pytest.skip(f"{name}: {peers.missing(module)}")
    prepared = getattr(module, job.kind)(job, Contender(peer=name, precision=precision))
    prepared.run()
    assert prepared.items > 0
    return np.asarray(prepared.outputs, np.float32)


@pytest.mark.parametrize("name", TORCH_PEERS)
def test_logits_agree_and_are_not_all_alike(job: Job, name: str) -> None:
    reference = outputs(job, "timm", "float32")
    assert reference.std() > 0.1
    difference, right = kind("inference").judge(
        outputs(job, name, "float32"), reference, Contender(peer=name, precision="float32")
    )
    assert right
    assert difference < 1e-4


@pytest.mark.parametrize("name", TORCH_PEERS)
def test_the_first_losses_of_training_agree(job: Job, name: str) -> None:
    job = dataclasses.replace(job, kind="training")
    reference = outputs(job, "timm", "float32")
    assert len(set(reference.tolist())) == 3
    difference, right = kind("training").judge(
        outputs(job, name, "float32"), reference, Contender(peer=name, precision="float32")
    )
    assert right, difference


@pytest.mark.parametrize(("name", "form"), [("timm", ""), ("transformers", "fast"), ("transformers", "pil")])
def test_pixels_agree_to_a_level(job: Job, name: str, form: str) -> None:
    job = dataclasses.replace(job, kind="data")
    reference = outputs(job, "vitkit", "")
    difference, right = kind("data").judge(outputs(job, name, form), reference, Contender(peer=name))
    assert right
    assert difference <= (1.01 if form == "fast" else 0.01)


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_photos_have_the_same_classes(job: Job, name: str) -> None:
    job = dataclasses.replace(job, kind="photos")
    assert outputs(job, name, "").tolist() == outputs(job, "vitkit", "float32").tolist()


@pytest.mark.parametrize("name", sorted({"inference", "training", "photos", "data", "startup"}))
def test_a_wrong_answer_is_found_out(name: str) -> None:
    reference = np.random.default_rng(0).standard_normal((8, 10)).astype(np.float32) + 3.0
    contender = Contender(peer="timm", precision="float32")
    for wrong in (np.roll(reference, 1, axis=0), reference[:4], reference * np.nan):
        assert not kind(name).judge(wrong, reference, contender)[1]
    assert kind(name).judge(reference.copy(), reference, contender) == (0.0, True)


def test_one_wrong_weight_matrix_is_beyond_every_rounding(job: Job, tmp_path: Path) -> None:
    from vitkit.checkpoints import load, save

    reference = outputs(job, "timm", "float32")
    loaded = load(f"{job.folder}/vitkit")
    with torch.no_grad():
        loaded.model.blocks[0].mlp.fc2.weight.zero_()
    save(loaded, tmp_path / "vitkit", to="vitkit")
    broken = outputs(dataclasses.replace(job, folder=str(tmp_path)), "vitkit", "float32")
    assert not kind("inference").judge(broken, reference, Contender(peer="vitkit", precision="int8"))[1]


@pytest.mark.parametrize(
    "precision", ["float32", "bfloat16", "float16", pytest.param("int8", marks=pytest.mark.needs("packs"))]
)
def test_the_limit_counts_the_operations_of_a_block(job: Job, precision: str) -> None:
    from vitkit.bench import roofline

    rows, width, mlp = 2 * job.shape["tokens"], job.shape["width"], job.shape["mlp_width"]
    prepared = roofline.inference(job, Contender(peer="limit", precision=precision))
    prepared.run()
    assert prepared.items == 2 * rows * width * (3 * width + width + 2 * mlp)


def test_the_limit_of_memory_counts_what_is_moved(job: Job) -> None:
    from vitkit.bench import roofline

    assert roofline.inference(job, Contender(peer="limit", precision="copy")).items == 2 * 256 * 2**20


def test_the_limit_is_measured_in_what_the_cpu_can_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AVX2 CPU packs float32 alone, other CPUs than x86 nothing."""
    from vitkit.bench import roofline

    cpu = torch.device("cpu")
    monkeypatch.setattr(roofline, "can_pack", lambda dtype: dtype == torch.float32)
    assert set(roofline._ways("float32", cpu)) == {"linear", "onednn packed"}
    assert set(roofline._ways("bfloat16", cpu)) == {"linear", "onednn packed in float32"}
    monkeypatch.setattr(roofline, "can_pack", lambda dtype: False)
    assert set(roofline._ways("float32", cpu)) == set(roofline._ways("bfloat16", cpu)) == {"linear"}
    with pytest.raises(ValueError, match=r"int8 on a CPU .* which only x86 CPUs have"):
        roofline._packed_int8(4, 16, 8, cpu)


@pytest.mark.needs("packs")
def test_packed_products_give_what_linear_gives() -> None:
    from vitkit.bench import roofline

    torch.manual_seed(0)
    plain = roofline._linear(5, 16, 8, torch.device("cpu"), torch.float32)()
    torch.manual_seed(0)
    torch.testing.assert_close(roofline._packed(5, 16, 8, torch.device("cpu"), torch.float32)(), plain)


def test_words_become_contenders() -> None:
    found = peers.contenders("inference", "cpu", ["timm", "vitkit:precision=bfloat16:batch_size=4"], ["float32"])
    assert [each.name for each in found] == ["timm float32", "vitkit bfloat16 batch_size=4"]
    names = {each.peer for each in peers.contenders("inference", "cpu", [], ["float32"])}
    assert names == {*TORCH_PEERS, "timm_compiled", "onnxruntime", "openvino"}
    assert [each.precision for each in peers.contenders("data", "cpu", ["transformers"], ["all"])] == ["fast", "pil"]


@pytest.mark.parametrize(
    ("words", "precisions", "said"),
    [
        (["tim"], ["float32"], r"unknown peer 'tim'; did you mean 'timm'"),
        (["timm"], ["bfloat61"], r"'bfloat61' here; did you mean 'bfloat16'"),
        (["timm:precision=int8"], ["float32"], r"timm has no precision 'int8'"),
        (["timm:fast"], ["float32"], r"NAME=VALUE, not 'fast'"),
        (["openvino", "vitkit"], ["float64"], r"no peer has the precision 'float64'"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], precisions: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        peers.contenders("inference", "cpu", words, precisions)


def test_a_peer_that_cannot_do_a_kind_says_who_can() -> None:
    with pytest.raises(ValueError, match="'openvino' cannot do training; vitkit, timm"):
        peers.contenders("training", "cpu", ["openvino"], ["bfloat16"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inferense"], "unknown kind of benchmark 'inferense'; did you mean 'inference'"),
        (["inference", "--model", "vit-b16"], "did you mean 'vit-b/16'"),
        (["inference", "--batch", "many"], "not 'many'"),
        (["inference", "--rounds", "0"], "rounds is 0"),
        (["inference", "--device", "tpu"], "unknown device 'tpu'"),
        (["data", "--photos", "no/such/folder"], "no/such/folder"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


def test_every_kind_has_the_contract() -> None:
    assert kinds() == ["data", "inference", "photos", "startup", "training"]
    for name in kinds():
        module = kind(name)
        options = options_of(name, {})
        assert module.jobs(options)
        assert {each.peer for each in peers.contenders(name, "cpu", [], options.precisions)} >= {"vitkit", "timm"}
        for peer_name, _ in module.REFERENCES:
            assert hasattr(peers.peer(peer_name), name)


def test_a_setting_that_predictor_lacks_is_refused(job: Job) -> None:
    contender = Contender(peer="vitkit", precision="float32", settings=(("batchsize", "3"),))
    with pytest.raises(ValueError, match="no setting 'batchsize'; did you mean 'batch_size'"):
        peers.peer("vitkit").inference(job, contender)
