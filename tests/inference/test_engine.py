"""The engine against eager float32: every family in every precision, single layers, and failing paths."""

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
from vitkit.inference.engine.capabilities import Capabilities, capabilities
from vitkit.inference.engine.dense import FUSED, PLAIN, Dense, PatchDense
from vitkit.inference.engine.fuse import fold_batch_norms, special_tokens_read
from vitkit.inference.engine.path import BOUNDS, EIGHT_BITS, SMALL, paths
from vitkit.inference.engine.quantization import QuantizedDense, Range
from vitkit.layers import BatchNorm

CPU = capabilities(torch.device("cpu"))
needs_int8 = pytest.mark.needs("int8")
needs_packs = pytest.mark.needs("packs")


def tiny(family: str) -> models.Backbone:
    """Returns the small model of a family without zero parameters."""
    torch.manual_seed(0)
    model = models.build(models.family(family).TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def random_images(model: models.Backbone, count: int = 3, factor: int = 1) -> Tensor:
    rows, columns = model.config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.config.channels, rows * factor, columns * factor, generator=generator)


def logits_of(model: models.Backbone, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images).float()


@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("family", models.families())
def test_family_is_close_to_float32_or_raises_in_every_precision(family: str, precision: str) -> None:
    model = tiny(family)
    before = copy.deepcopy(model.state_dict())
    blocks = isinstance(model, models.TokenBackbone)
    if precision in EIGHT_BITS and not (getattr(CPU, precision) and blocks):
        with pytest.raises(ValueError, match=r"8-bit matrix products|need dense layers"):
            engine.accelerate(model, precision=precision)
        return
    images = random_images(model)
    fast = engine.accelerate(model, precision=precision, calibration=lambda: images)
    assert fast.precision == precision
    assert fast.difference <= BOUNDS[precision]
    assert ("exact" in fast.summary) == (precision == "float32")
    off = path.difference(path.outputs(model, images), path.outputs(fast.model, images))
    # Not the image that the engine compared with, unless it was calibrated.
    assert off <= 2 * BOUNDS[precision], f"{fast.summary}, but {off:.1%} here"
    assert (precision == "float32") == (off == 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


@needs_packs
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("family", models.families())
def test_fused_float32_is_close_to_eager(family: str, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding, packing and the shortcut of the last block change the order of sums only."""
    model = tiny(family)
    monkeypatch.setattr(
        "vitkit.inference.engine.paths", lambda *_, **__: [engine.ExecutionPath("float32", True, "this is a test")]
    )
    fast = engine.accelerate(model)
    assert fast.fused
    images = random_images(model, factor=factor)
    torch.testing.assert_close(logits_of(fast.model, images), logits_of(model, images), atol=1e-4, rtol=1e-4)
    for expected, actual in zip(path.outputs(model, images), path.outputs(fast.model, images), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", pytest.param("int8", marks=needs_int8), "merged"])
def test_outputs_do_not_depend_on_batch_size_or_position(precision: str) -> None:
    model = tiny("vit")
    options = {"precision": "bfloat16", "merge": 2} if precision == "merged" else {"precision": precision}
    fast = engine.accelerate(model, **options).model  # type: ignore[arg-type]
    images = random_images(model, count=2 * engine.CHUNK + 3)
    batched = logits_of(fast, images)
    for position in (0, 3, engine.CHUNK, 2 * engine.CHUNK + 2):
        assert torch.equal(logits_of(fast, images[position : position + 1])[0], batched[position])
    assert torch.equal(logits_of(fast, images.flip(0)).flip(0), batched)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("int8", marks=needs_int8)])
def test_empty_batch(precision: str) -> None:
    model = tiny("vit")
    fast = engine.accelerate(model, precision=precision, calibration=lambda: random_images(model)).model
    assert logits_of(fast, random_images(model)[:0]).shape == (0, 5)


def test_last_block_skips_tokens_that_the_head_does_not_read() -> None:
    model = tiny("vit")
    assert special_tokens_read(model, random_images(model)) == 1
    with torch.inference_mode():
        features = engine.accelerate(model, precision="bfloat16").model.features(random_images(model))
    assert features.tokens.shape[1] == 1
    for pool in ("gap", "map"):
        other = models.build(dataclasses.replace(model.config, pool=pool))
        assert special_tokens_read(other, random_images(model)) is None
    assert special_tokens_read(tiny("deit"), random_images(tiny("deit"))) == 2
    assert special_tokens_read(tiny("bit"), random_images(tiny("bit"))) is None


@pytest.mark.parametrize("fault", ["wrong", "nan", "raises"])
def test_wrong_path_is_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build(models.preset("vit-ti/16", image_size=32, num_classes=3, depth=4)).eval()
    nn.init.normal_(model.head.weight)
    right = Dense.forward

    def wrong(self: Dense, x: Tensor, **others: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("could not create a primitive")
        y = right(self, x, **others)
        return y * torch.nan if fault == "nan" else y.flip(0) + y.roll(1, -1)

    monkeypatch.setattr(Dense, "forward", wrong)
    fast = engine.accelerate(model)
    assert fast.precision == "float32"
    assert not fast.fused
    assert fast.model is model
    if CPU.packs or CPU.bfloat16:
        assert ("failed (could not create" if fault == "raises" else "the limit is") in fast.summary
    if CPU.int8:
        with pytest.raises(ValueError, match=r"this model cannot run in int8"):
            engine.accelerate(model, precision="int8")


def test_auto_depends_on_capabilities_and_model_size() -> None:
    large = models.build(models.preset("vit-ti/16", num_classes=3), device="meta")
    assert sum(parameter.numel() for parameter in large.parameters()) > SMALL

    def best(bfloat16: bool, float16: bool, packs: bool, model: models.Backbone = large) -> list[tuple[str, bool]]:
        device = Capabilities("test CPU", bfloat16=bfloat16, float16=float16, int8=False, packs=packs)
        return [(path.precision, path.fused) for path in paths("auto", device, model)]

    assert best(True, False, True) == [("bfloat16", True), ("float32", True), ("float32", False)]
    assert best(True, True, False) == [("bfloat16", True), ("float32", False)]
    assert best(False, True, False) == [("float16", True), ("float32", False)]
    assert best(False, False, True) == [("float32", True), ("float32", False)]
    assert best(False, False, False) == [("float32", False)]
    assert best(True, True, True, tiny("vit")) == [("float32", False)]
    none = Capabilities("test CPU", bfloat16=False, float16=False, int8=False)
    with pytest.raises(
        ValueError, match=r"int8 needs a CPU with 8-bit matrix products .* this device is test CPU without"
    ):
        paths("int8", none, large)
    with pytest.raises(ValueError, match=r"unknown precision 'int3'"):
        paths("int3", none, large)


@pytest.mark.parametrize("act", FUSED)
@pytest.mark.parametrize("packed", [pytest.param(True, marks=needs_packs), False])
def test_dense_layer_equals_separate_operations(act: str, packed: bool) -> None:
    linear = nn.Linear(24, 40)
    x, other = torch.randn(2, 5, 24), torch.randn(2, 5, 40)
    fused = Dense(linear.weight, linear.bias, dtype=torch.float32, packed=packed, act=act)
    plain = Dense(linear.weight, None, dtype=torch.float32, packed=packed)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), PLAIN[act](linear(x)), atol=1e-5, rtol=1e-5)
        product = F.linear(x, linear.weight)
        torch.testing.assert_close(plain(x, residual=other), product + other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain(x, factor=other), product * other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fused(x[:, :3].transpose(0, 1)), fused(x)[:, :3].transpose(0, 1))


def test_patch_dense_equals_convolution() -> None:
    convolution = nn.Conv2d(3, 16, kernel_size=(4, 6), stride=(4, 6))

    def make(name: str, weight: Tensor, bias: Tensor) -> Dense:
        return Dense(weight, bias, dtype=torch.float32, packed=False)

    images = torch.randn(2, 3, 17, 20)  # incomplete patches at the bottom and right
    with torch.inference_mode():
        found = PatchDense(convolution, make, torch.float32)(images)
        torch.testing.assert_close(found, convolution(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "zero"), [pytest.param(0.03, 110, marks=needs_int8), pytest.param(0.066, 60, marks=needs_packs)]
)
def test_quantized_layer_equals_dequantized_product(scale: float, zero: int) -> None:
    """The second range gives values up to 127, whose sums are exact without VNNI too."""
    torch.manual_seed(0)
    linear, x, residual = nn.Linear(64, 48), torch.randn(2, 7, 64), torch.randn(2, 7, 48)
    taken = Range(scale=scale, zero=zero)
    layer = QuantizedDense(linear.weight, linear.bias, taken=taken, dtype=torch.float32)
    weight = (linear.weight / layer.scales[:, None]).round() * layer.scales[:, None]
    rounded = ((x / scale).round() + zero).clamp(0, 255)
    assert zero > 100 or rounded.max() <= 127
    with torch.inference_mode():
        expected = F.linear((rounded - zero) * scale, weight, linear.bias)
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer(x, residual=residual), expected + residual, atol=1e-4, rtol=1e-4)
        output_range = Range(scale=0.02, zero=10)
        gelu = QuantizedDense(
            linear.weight, linear.bias, taken=taken, dtype=torch.float32, act="gelu", to=output_range
        )(x)
        assert gelu.dtype == torch.uint8
        dequantized = (gelu.float() - 10) * 0.02
        torch.testing.assert_close(dequantized, F.gelu(expected).clamp(-0.2, 4.9), atol=0.0101, rtol=0)


def test_range_clamps_outliers_if_that_reduces_the_error() -> None:
    uniform, outlier = quantization.InputObserver(), quantization.InputObserver()
    values = torch.rand(64, 100) - 0.25
    uniform.observe(values)
    assert uniform.range().scale == pytest.approx(1 / 255, rel=0.01)
    # An outlier that is not in the sampled rows: the full range would waste nearly all of its steps.
    outlier.rows, outlier.low, outlier.high = [values], values.amin(0), values.amax(0) * 10
    assert outlier.range().scale == pytest.approx((0.4 * 7.5 + 0.25) / 255, rel=0.02)
    with pytest.raises(ValueError, match=r"no calibration data"):
        quantization.InputObserver().range()


@pytest.mark.parametrize("family", ["vit", "beit", "dino", "dinov3"])
def test_smoothing_does_not_change_outputs(family: str) -> None:
    model = tiny(family).double()
    assert isinstance(model, models.TokenBackbone)
    images = random_images(model).double()
    with torch.inference_mode():
        expected = model(images)
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            names = {"attn.qkv": block.attn.qkv, "attn.proj": block.attn.proj, "mlp.fc1": block.mlp.fc1}
            observers = {}
            for name, layer in names.items():
                observers[f"blocks.{number}.{name}"] = quantization.InputObserver()
                observers[f"blocks.{number}.{name}"].observe(
                    torch.randn(9, layer.in_features) * torch.rand(layer.in_features) * 8
                )
            divisors = quantization.smooth(block, f"blocks.{number}", observers)  # type: ignore[arg-type]
            assert len({float(by) for by in divisors[f"blocks.{number}.attn.qkv"]}) > 1
    with torch.inference_mode():
        torch.testing.assert_close(model(images), expected, atol=1e-9, rtol=1e-9)


def test_predictor_reports_precision_and_summary() -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-ti/16", image_size=32, num_classes=3, depth=2)).eval()
    nn.init.normal_(model.head.weight)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    processor = Processor.squash(32)
    exact = np.stack([outcome.output for outcome in Predictor(model, processor, precision="float32").logits(images)])
    auto = Predictor(model, processor)
    assert auto.precision == ("bfloat16" if CPU.bfloat16 else "float32")
    assert auto.precision in auto.summary
    if CPU.int8:
        calibrated = Predictor(model, processor, precision="int8", calibration=images[:2], batch_size=2)
        stream = Predictor(model, processor, precision="int8", batch_size=2)
        rows = [np.stack([outcome.output for outcome in each.logits(images)]) for each in (calibrated, stream)]
        # Both are calibrated on the same two images. On some CPUs the batch size changes the last bit.
        np.testing.assert_array_equal(rows[0], rows[1])
        # Ten tokens are too few for good ranges; calibrated on all images the logits are close.
        full = Predictor(model, processor, precision="int8", calibration=images)
        rows.append(np.stack([outcome.output for outcome in full.logits(images)]))
        assert np.sqrt(np.mean((rows[-1] - exact) ** 2)) < 0.1 * exact.std()
        assert calibrated.summary.startswith("int8")
    half = copy.deepcopy(model).bfloat16()
    assert Predictor(half, processor).precision == "bfloat16"
    assert Predictor(half, processor).model is half
    with pytest.raises(ValueError, match=r"int8 needs a model in float32, not in bfloat16"):
        _ = Predictor(half, processor, precision="int8").model


@pytest.mark.parametrize("family", ["resnet", "axial_resnet"])
def test_batch_norms_are_folded_into_convolutions_without_hooks(family: str) -> None:
    torch.manual_seed(0)
    model = tiny(family)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    images = random_images(model, 2)
    expected = model.double()(images.double())
    plain = copy.deepcopy(model)
    for module in plain.modules():
        fold_batch_norms(module)
    left = [name for name, module in plain.named_modules() if isinstance(module, BatchNorm)]
    assert all(".row." in name or ".column." in name for name in left)  # they follow no convolution of an image
    torch.testing.assert_close(plain(images.double()), expected, atol=1e-12, rtol=1e-10)
    hooked = copy.deepcopy(model)
    hooked.stem.norm.register_forward_hook(lambda *_: torch.zeros(1))
    fold_batch_norms(hooked.stem)
    assert isinstance(hooked.stem.norm, BatchNorm)
