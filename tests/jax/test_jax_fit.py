"""Training of the twin: the step on one device and on two, against PyTorch, resumption, and the run folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from twins import TINY, params_of, torch_twin

import vitkit.jax as twin
from vitkit.jax.convert import flatten, to_flax
from vitkit.jax.step import losses, make_mesh, make_state, make_step, place_batch

ONE = replace(TINY, depth=1)


def batch(size: int = 8, seed: int = 0, classes: int = 5) -> dict[str, np.ndarray]:
    """Noise on the pattern of a class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, size)
    images = random.standard_normal((size, 3, 32, 32), dtype=np.float32)
    patterns = np.random.default_rng(99).standard_normal((5, 3, 8, 8), dtype=np.float32)
    return {"images": images + np.tile(patterns[labels], (1, 1, 4, 4)), "labels": labels}


def batches(start: int):
    """A pure function of the step."""
    step = start
    while True:
        yield batch(seed=step)
        step += 1


def same(one, other) -> None:
    """The same bits."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other)


def near(one, other, tolerance: float = 1e-5) -> None:
    """Within `tolerance` everywhere."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), one, other)


def moved(flat):
    """Without the key biases: their gradient is zero but for rounding, and Adam divides rounding by itself."""
    return {name: value for name, value in flat.items() if not name.endswith("key/bias")}


def run_steps(plan, steps: int = 3, devices=None, config=ONE):
    mesh = make_mesh(devices or jax.devices()[:1])
    state = make_state(params_of(torch_twin(config)), plan, mesh)
    step = make_step(twin.ViT(config, remat=plan.remat), plan, mesh)
    stream = batches(0)
    numbers = {}
    for _ in range(steps):
        state, numbers = step(state, place_batch(next(stream), mesh))
    return jax.device_get(state), jax.device_get(numbers)


def torch_steps(optimizer_of, plan, steps: int = 3):
    """The same run in PyTorch: clipping, decay of the kernels alone, the schedule."""
    model, rate = torch_twin(ONE), twin.learning_rate(plan)
    kernels = {"attn.qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight", "patch_embed.proj.weight"}
    decayed = [each for name, each in model.named_parameters() if name.endswith((*kernels, "head.weight"))]
    rest = [each for name, each in model.named_parameters() if not name.endswith((*kernels, "head.weight"))]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer, stream = optimizer_of(groups), batches(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        one = next(stream)
        loss = F.cross_entropy(model(torch.from_numpy(one["images"])), torch.from_numpy(one["labels"]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    return to_flax(model.state_dict(), ONE.num_heads)


def test_adamw_is_pytorchs():
    plan = twin.Plan(steps=10, warmup_steps=2, learning_rate=1e-2, weight_decay=0.1, clip=0.5)
    state, _ = run_steps(plan)
    expected = torch_steps(lambda groups: torch.optim.AdamW(groups, eps=1e-8), plan)
    near(moved(flatten(state.params)), moved(expected), 1e-4)


@pytest.mark.slow
def test_sgd_is_pytorchs():
    plan = twin.Plan(steps=10, warmup_steps=1, learning_rate=0.1, optimizer="sgd", schedule="linear", clip=1.0)
    state, _ = run_steps(plan)
    near(flatten(state.params), torch_steps(lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9), plan), 1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate(schedule):
    """As `train/schedule.py` has it."""
    from vitkit.train.schedule import Schedule, factor

    plan = twin.Plan(steps=50, warmup_steps=5, learning_rate=0.3, schedule=schedule)
    expected = [0.3 * factor(Schedule(decay=schedule, warmup=5), step, 50) for step in range(51)]
    near([float(twin.learning_rate(plan)(step)) for step in range(51)], expected, 1e-6)


def test_losses():
    logits = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    labels = np.array([0, 4, 2, 2])
    plan = twin.Plan(steps=1, label_smoothing=0.1)
    expected = F.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), label_smoothing=0.1, reduction="none"
    )
    near(losses(jnp.asarray(logits), jnp.asarray(labels), plan), expected.numpy(), 1e-6)
    shares = np.eye(5, dtype=np.float32)[labels] * 0.7 + 0.06
    expected = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(shares), reduction="none")
    given = losses(jnp.asarray(logits), jnp.asarray(shares), twin.Plan(steps=1, loss="sigmoid"))
    near(given, expected.sum(dim=1).numpy(), 1e-5)


@pytest.mark.slow
def test_accumulation_and_remat_change_nothing():
    plan = twin.Plan(steps=10, learning_rate=0.1, optimizer="sgd")
    expected, numbers = run_steps(plan)
    for changed in (replace(plan, accumulate=4), replace(plan, remat=True)):
        state, others = run_steps(changed)
        near(state.params, expected.params, 1e-5)
        near(others, numbers, 1e-4)


@pytest.mark.slow
def test_average_and_bfloat16_moments():
    plan = twin.Plan(steps=10, learning_rate=1e-2, average=0.5, momentum_precision="bfloat16")
    mesh = make_mesh(jax.devices()[:1])
    state = make_state(params_of(torch_twin(ONE)), plan, mesh)
    step = make_step(twin.ViT(ONE), plan, mesh)
    average = jax.device_get(state.params)
    for _, one in zip(range(3), batches(0), strict=False):
        state, _ = step(state, place_batch(one, mesh))
        average = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, average, jax.device_get(state.params))
    near(jax.device_get(state.best_params), average, 1e-6)
    assert any(value.dtype == jnp.bfloat16 for value in jax.tree.leaves(state.moments))


TWO_DEVICES = """
import jax, numpy as np
from dataclasses import replace
from test_jax_fit import batches, near, run_steps
from twins import TINY, params_of, torch_twin
import vitkit.jax as twin
from vitkit.jax.step import make_mesh, make_state, place_batch
assert jax.device_count() == 2
config = replace(TINY, depth=1, dropout=0.2, stochastic_depth=0.2, attention_dropout=0.1)
plan = twin.Plan(steps=10, learning_rate=0.1, optimizer="sgd", average=0.9, weight_decay=0.1)
for changed in (plan, replace(plan, shard_parameters=True, accumulate=2)):
    # The parameters' places change nothing; how a batch is cut into parts decides which dropout a picture gets.
    alone = run_steps(replace(changed, shard_parameters=False), devices=jax.devices()[:1], config=config)
    near(run_steps(changed, devices=jax.devices(), config=config), alone, 1e-5)
mesh = make_mesh()
spread = make_state(params_of(torch_twin(config)), replace(plan, shard_parameters=True), mesh)
assert spread.params["embedding"]["kernel"].addressable_shards[0].data.size * 2 == 8 * 8 * 3 * 32
try:
    place_batch({"images": np.zeros((3, 3, 32, 32)), "labels": np.zeros(3, int)}, mesh)
except ValueError as error:
    assert "a batch of 3 does not divide over 2 devices" in str(error)
def few(start):
    yield {name: value[:5] for name, value in next(batches(100)).items()}
fitted = twin.fit(config, batches, replace(plan, steps=2), validation=few)
assert 0 <= fitted.log[-1]["validation_top1"] <= 1
print("agreed")
"""


@pytest.mark.slow
def test_two_devices_are_one():
    """A process with two CPU devices: the same weights as on one, with dropout, and with parameters spread too."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    flags = "--xla_force_host_platform_device_count=2"
    variables = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "agreed"


PLAN = twin.Plan(
    steps=60, learning_rate=1e-2, warmup_steps=5, log_every=20, evaluate_every=20, checkpoint_every=20, average=0.9
)


def validation(start: int):
    yield batch(32, seed=1000)
    yield batch(7, seed=1001)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run from start to end."""
    folder = tmp_path_factory.mktemp("fit") / "run"
    config = replace(ONE, dropout=0.1, stochastic_depth=0.1)
    return config, folder, twin.fit(config, batches, PLAN, validation=validation, out=folder)


@pytest.mark.slow
def test_it_learns(whole):
    _, folder, fitted = whole
    assert [row["step"] for row in fitted.log] == [20, 40, 60]
    assert fitted.log[-1]["loss"] < 0.5 * np.log(5)
    assert fitted.log[-1]["validation_top1"] > 0.9
    assert [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] == fitted.log


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path):
    config, _, fitted = whole

    def stop(row):
        if row["step"] == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        twin.fit(config, batches, PLAN, validation=validation, out=tmp_path / "run", report=stop)
    rows = []
    again = twin.fit(config, batches, PLAN, validation=validation, out=tmp_path / "run", report=rows.append)
    # The state of step 40 was not written yet when the run was stopped.
    assert [row["step"] for row in rows] == [40, 60]
    same(again.checkpoint.params, fitted.checkpoint.params)
    assert again.log == fitted.log
    finished = twin.fit(config, batches, PLAN, validation=validation, out=tmp_path / "run")
    same(finished.checkpoint.params, fitted.checkpoint.params)
    with pytest.raises(ValueError, match="holds another run"):
        twin.fit(config, batches, replace(PLAN, seed=1), out=tmp_path / "run")


@pytest.mark.slow
def test_the_best_checkpoint_opens_on_both_sides(whole):
    from vitkit import checkpoints

    config, folder, fitted = whole
    opened, again = checkpoints.load(folder / "best"), twin.load(folder / "best")
    one = batch(16, seed=7)
    expected = again.model().apply({"params": again.params}, one["images"].transpose(0, 2, 3, 1))
    with torch.no_grad():
        near(opened.model(torch.from_numpy(one["images"])).numpy(), np.asarray(expected))
    assert (np.asarray(expected).argmax(axis=1) == one["labels"]).mean() > 0.8
    best = max(fitted.log, key=lambda row: (row["validation_top1"], row["step"]))
    if best["step"] == PLAN.steps:
        same(again.params, fitted.checkpoint.params)
    assert config.num_classes == again.config.num_classes


@pytest.mark.slow
def test_fine_tuning_from_a_checkpoint(whole, tmp_path):
    """Another head, another size, bfloat16, from what the first run wrote, without a folder."""
    _, folder, _ = whole
    start = twin.load(folder / "best").with_head(3).with_image_size((40, 40))
    plan = twin.Plan(steps=30, learning_rate=0.1, optimizer="sgd", momentum_precision="bfloat16", precision="bfloat16")

    def larger(step):
        while True:
            one = batch(16, seed=step, classes=3)
            yield {**one, "images": np.pad(one["images"], ((0, 0), (0, 0), (0, 8), (0, 8)))}
            step += 1

    fitted = twin.fit(start, larger, plan)
    assert fitted.log[-1]["loss"] < 0.7
    assert fitted.checkpoint.params["head"]["kernel"].dtype == np.float32
    twin.save(tmp_path / "out.npz", fitted.checkpoint)


@pytest.mark.slow
def test_errors():
    with pytest.raises(ValueError, match="the batches ended after 1 steps of 3"):
        twin.fit(ONE, lambda start: iter([batch()]), twin.Plan(steps=3))
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        twin.fit(ONE, batches, twin.Plan(steps=1), validation=lambda start: iter([]))
    with pytest.raises(ValueError, match="warmup_steps is 5; it must lie between 0 and steps, 3"):
        twin.Plan(steps=3, warmup_steps=5)
    with pytest.raises(ValueError, match="steps is 0"):
        twin.Plan(steps=0)


def test_a_missing_extra_says_what_to_type():
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'optax': raise ModuleNotFoundError(name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'optax' else real(name, package)\n"
        "import vitkit.jax\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: vitkit.jax needs optax: pip install 'vitkit[jax]'"
