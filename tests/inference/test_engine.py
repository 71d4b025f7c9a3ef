"""The engine against float32 eager: every family in every precision, its parts alone, and a path that fails."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.inference import Predictor, engine
from vitkit.inference.engine import path, quantization
from vitkit.inference.engine.dense import PLAIN, Dense, PatchDense
from vitkit.inference.engine.fuse import special_read
from vitkit.inference.engine.machine import Machine, machine
from vitkit.inference.engine.path import BOUNDS, EIGHT_BITS, SMALL, paths
from vitkit.inference.engine.quantization import QuantisedDense, Range

HERE = machine(torch.device("cpu"))
needs_int8 = pytest.mark.needs("int8")
needs_packs = pytest.mark.needs("packs")


def tiny(family: str) -> models.Backbone:
    """The family's small model, with no parameter at a value that hides it."""
    torch.manual_seed(0)
    model = models.build(models.family(family).TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def pictures(model: models.Backbone, count: int = 3, factor: int = 1) -> Tensor:
    rows, columns = model.config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.config.channels, rows * factor, columns * factor, generator=generator)


def said(model: models.Backbone, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images).float()


@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("family", models.families())
def test_every_family_in_every_precision_is_near_float32_or_refused(family: str, precision: str) -> None:
    model = tiny(family)
    before = copy.deepcopy(model.state_dict())
    blocks = isinstance(model, models.TokenBackbone)
    if precision in EIGHT_BITS and not (getattr(HERE, precision) and blocks):
        with pytest.raises(ValueError, match=r"8-bit products|no dense layers"):
            engine.accelerate(model, precision=precision)
        return
    images = pictures(model)
    made = engine.accelerate(model, precision=precision, pictures=lambda: images)
    assert made.precision == precision
    assert made.difference <= BOUNDS[precision]
    assert ("exact" in made.statement) == (precision == "float32")
    off = path.difference(path.answers(model, images), path.answers(made.model, images))
    # Other pictures than the one it was checked on, where it is not calibrated.
    assert off <= 2 * BOUNDS[precision], f"{made.statement}, but {off:.1%} here"
    assert (precision == "float32") == (off == 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


@needs_packs
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("family", models.families())
def test_fused_in_float32_the_arithmetic_is_the_same(family: str, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding, packing, the shortcut of the last block: differences are those of the order of sums."""
    model = tiny(family)
    monkeypatch.setattr(
        "vitkit.inference.engine.paths", lambda *_, **__: [engine.Path("float32", True, "this is a test")]
    )
    made = engine.accelerate(model)
    assert made.fused
    images = pictures(model, factor=factor)
    torch.testing.assert_close(said(made.model, images), said(model, images), atol=1e-4, rtol=1e-4)
    for exact, fast in zip(path.answers(model, images), path.answers(made.model, images), strict=True):
        torch.testing.assert_close(fast, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", pytest.param("int8", marks=needs_int8), "merged"])
def test_an_image_has_the_same_bits_in_any_batch_and_place(precision: str) -> None:
    model = tiny("vit")
    options = {"precision": "bfloat16", "merge": 2} if precision == "merged" else {"precision": precision}
    fast = engine.accelerate(model, **options).model  # type: ignore[arg-type]
    images = pictures(model, count=2 * engine.CHUNK + 3)
    together = said(fast, images)
    for place in (0, 3, engine.CHUNK, 2 * engine.CHUNK + 2):
        assert torch.equal(said(fast, images[place : place + 1])[0], together[place])
    assert torch.equal(said(fast, images.flip(0)).flip(0), together)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("int8", marks=needs_int8)])
def test_no_pictures_have_no_answers(precision: str) -> None:
    model = tiny("vit")
    fast = engine.accelerate(model, precision=precision, pictures=lambda: pictures(model)).model  # type: ignore[arg-type]
    assert said(fast, pictures(model)[:0]).shape == (0, 5)


def test_the_head_that_reads_one_token_spares_the_others_their_last_block() -> None:
    model = tiny("vit")
    assert special_read(model, pictures(model)) == 1
    with torch.inference_mode():
        features = engine.accelerate(model, precision="bfloat16").model.features(pictures(model))
    assert features.tokens.shape[1] == 1
    for pool in ("gap", "map"):
        other = models.build(dataclasses.replace(model.config, pool=pool))
        assert special_read(other, pictures(model)) is None
    assert special_read(tiny("deit"), pictures(tiny("deit"))) == 2
    assert special_read(tiny("resnet"), pictures(tiny("resnet"))) is None


@pytest.mark.parametrize("fault", ["wrong", "not a number", "raises"])
def test_a_wrong_path_is_never_taken(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build(models.preset("vit-ti/16", image_size=32, num_classes=3, depth=4)).eval()
    nn.init.normal_(model.head.weight)
    right = Dense.forward

    def wrong(self: Dense, x: Tensor, **others: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("could not create a primitive")
        y = right(self, x, **others)
        return y * torch.nan if fault == "not a number" else y.flip(0) + y.roll(1, -1)

    monkeypatch.setattr(Dense, "forward", wrong)
    made = engine.accelerate(model)
    assert made.precision == "float32"
    assert not made.fused
    assert made.model is model
    if HERE.packs or HERE.bfloat16:
        assert ("failed (could not create" if fault == "raises" else "allowed") in made.statement
    if HERE.int8:
        with pytest.raises(ValueError, match=r"int8 cannot be used with this model here"):
            engine.accelerate(model, precision="int8")


def test_auto_knows_machines_and_sizes() -> None:
    large = models.build(models.preset("vit-ti/16", num_classes=3), device="meta")
    assert sum(parameter.numel() for parameter in large.parameters()) > SMALL

    def best(bfloat16: bool, float16: bool, packs: bool, model: models.Backbone = large) -> list[tuple[str, bool]]:
        here = Machine("machine", bfloat16=bfloat16, float16=float16, int8=False, packs=packs)
        return [(path.precision, path.fused) for path in paths("auto", here, model)]

    assert best(True, False, True) == [("bfloat16", True), ("float32", True), ("float32", False)]
    assert best(True, True, False) == [("bfloat16", True), ("float32", False)]
    assert best(False, True, False) == [("float16", True), ("float32", False)]
    assert best(False, False, True) == [("float32", True), ("float32", False)]
    assert best(False, False, False) == [("float32", False)]
    assert best(True, True, True, tiny("vit")) == [("float32", False)]
    none = Machine("machine", bfloat16=False, float16=False, int8=False)
    with pytest.raises(ValueError, match=r"int8 needs a CPU with 8-bit products .* here is a machine without"):
        paths("int8", none, large)
    with pytest.raises(ValueError, match=r"unknown precision 'int3'"):
        paths("int3", none, large)


@pytest.mark.parametrize("act", PLAIN)
@pytest.mark.parametrize("packed", [pytest.param(True, marks=needs_packs), False])
def test_a_dense_layer_is_what_its_parts_are(act: str, packed: bool) -> None:
    linear = nn.Linear(24, 40)
    x, other = torch.randn(2, 5, 24), torch.randn(2, 5, 40)
    made = Dense(linear.weight, linear.bias, dtype=torch.float32, packed=packed, act=act)
    plain = Dense(linear.weight, None, dtype=torch.float32, packed=packed)
    with torch.inference_mode():
        torch.testing.assert_close(made(x), PLAIN[act](linear(x)), atol=1e-5, rtol=1e-5)
        product = F.linear(x, linear.weight)
        torch.testing.assert_close(plain(x, residual=other), product + other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain(x, factor=other), product * other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made(x[:, :3].transpose(0, 1)), made(x)[:, :3].transpose(0, 1))


def test_patches_are_a_dense_layer() -> None:
    convolution = nn.Conv2d(3, 16, kernel_size=(4, 6), stride=(4, 6))

    def make(name: str, weight: Tensor, bias: Tensor) -> Dense:
        return Dense(weight, bias, dtype=torch.float32, packed=False)

    images = torch.randn(2, 3, 17, 20)  # with a remainder below and to the right
    with torch.inference_mode():
        found = PatchDense(convolution, make, torch.float32)(images)
        torch.testing.assert_close(found, convolution(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "zero"), [pytest.param(0.03, 110, marks=needs_int8), pytest.param(0.066, 60, marks=needs_packs)]
)
def test_a_quantised_layer_is_exact_on_what_it_rounds_to(scale: float, zero: int) -> None:
    """The second range gives numbers up to 127, whose sums are exact without VNNI too."""
    torch.manual_seed(0)
    linear, x, residual = nn.Linear(64, 48), torch.randn(2, 7, 64), torch.randn(2, 7, 48)
    taken = Range(scale=scale, zero=zero)
    made = QuantisedDense(linear.weight, linear.bias, taken=taken, dtype=torch.float32)
    weight = (linear.weight / made.scales[:, None]).round() * made.scales[:, None]
    rounded = ((x / scale).round() + zero).clamp(0, 255)
    assert zero > 100 or rounded.max() <= 127
    with torch.inference_mode():
        expected = F.linear((rounded - zero) * scale, weight, linear.bias)
        torch.testing.assert_close(made(x), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(made(x, residual=residual), expected + residual, atol=1e-4, rtol=1e-4)
        onward = Range(scale=0.02, zero=10)
        gelu = QuantisedDense(linear.weight, linear.bias, taken=taken, dtype=torch.float32, act="gelu", to=onward)(x)
        assert gelu.dtype == torch.uint8
        back = (gelu.float() - 10) * 0.02
        torch.testing.assert_close(back, F.gelu(expected).clamp(-0.2, 4.9), atol=0.0101, rtol=0)


def test_a_range_cuts_outliers_only_where_that_is_better() -> None:
    flat, spiked = quantization.Seen(), quantization.Seen()
    values = torch.rand(64, 100) - 0.25
    flat.look(values)
    assert flat.range().scale == pytest.approx(1 / 255, rel=0.01)
    # A spike that the few rows kept for trying do not hold: the whole range would waste nearly all of its steps.
    spiked.rows, spiked.low, spiked.high = [values], values.amin(0), values.amax(0) * 10
    assert spiked.range().scale == pytest.approx((0.4 * 7.5 + 0.25) / 255, rel=0.02)
    with pytest.raises(ValueError, match=r"saw no picture"):
        quantization.Seen().range()


@pytest.mark.parametrize("family", ["vit", "beit", "dino", "dinov3"])
def test_smoothing_changes_no_function(family: str) -> None:
    model = tiny(family).double()
    assert isinstance(model, models.TokenBackbone)
    images = pictures(model).double()
    with torch.inference_mode():
        expected = model(images)
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            names = {"attn.qkv": block.attn.qkv, "attn.proj": block.attn.proj, "mlp.fc1": block.mlp.fc1}
            seen = {}
            for name, layer in names.items():
                seen[f"blocks.{number}.{name}"] = quantization.Seen()
                seen[f"blocks.{number}.{name}"].look(
                    torch.randn(9, layer.in_features) * torch.rand(layer.in_features) * 8
                )
            divisors = quantization.smooth(block, f"blocks.{number}", seen)  # type: ignore[arg-type]
            assert len({float(by) for by in divisors[f"blocks.{number}.attn.qkv"]}) > 1
    with torch.inference_mode():
        torch.testing.assert_close(model(images), expected, atol=1e-9, rtol=1e-9)


def test_the_predictor_says_what_it_runs() -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-ti/16", image_size=32, num_classes=3, depth=2)).eval()
    nn.init.normal_(model.head.weight)
    generator = np.random.default_rng(0)
    photos = [Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    processor = Processor.squash(32)
    exact = np.stack([outcome.output for outcome in Predictor(model, processor, precision="float32").logits(photos)])
    auto = Predictor(model, processor)
    assert auto.precision == ("bfloat16" if HERE.bfloat16 else "float32")
    assert auto.precision in auto.statement
    if HERE.int8:
        given = Predictor(model, processor, precision="int8", calibration=photos[:2])
        stream = Predictor(model, processor, precision="int8", batch_size=2)
        rows = [np.stack([outcome.output for outcome in each.logits(photos)]) for each in (given, stream)]
        # The first batch is what the other was calibrated on.
        np.testing.assert_array_equal(rows[0], rows[1])
        # Ten tokens are few to find ranges with; with all of them seen the answers are near.
        seen = Predictor(model, processor, precision="int8", calibration=photos)
        rows.append(np.stack([outcome.output for outcome in seen.logits(photos)]))
        assert np.sqrt(np.mean((rows[-1] - exact) ** 2)) < 0.1 * exact.std()
        assert given.statement.startswith("int8")
    half = copy.deepcopy(model).bfloat16()
    assert Predictor(half, processor).precision == "bfloat16"
    assert Predictor(half, processor).model is half
    with pytest.raises(ValueError, match=r"int8 is made of a model in float32; this one is in bfloat16"):
        _ = Predictor(half, processor, precision="int8").model
