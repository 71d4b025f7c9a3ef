"""Evaluations of a run compute features with autocast; heads and metrics stay in float32."""

from dataclasses import replace

import pytest
import torch

from vitkit import models
from vitkit.config import AnyConfig
from vitkit.data.loader import Batch
from vitkit.evaluation import ModelOutputs
from vitkit.models import resnet, vit

VIT = vit.Config(image_size=(16, 16), patch_size=(8, 8), width=32, depth=2, num_heads=2, mlp_width=64, num_classes=5)
RESNET = replace(resnet.TINY, image_size=(32, 32), num_classes=5)


@pytest.mark.parametrize("config", [VIT, replace(VIT, pool="gap"), RESNET], ids=["token", "gap", "resnet"])
def test_features_have_the_precision_of_autocast_and_heads_that_of_float32(config: AnyConfig) -> None:
    torch.manual_seed(0)
    model = models.build(config)
    for parameter in model.head_parameters().values():
        torch.nn.init.normal_(parameter)
    images = torch.randn(6, 3, *config.image_size)
    batch = Batch(images, torch.eye(6, 5), tuple("abcdef"))
    exact, fast = (
        ModelOutputs(model, lambda: [batch], tuple("abcde"), autocast=dtype).predictions.logits
        for dtype in (None, torch.bfloat16)
    )
    with torch.inference_mode():
        torch.testing.assert_close(exact, model.eval()(images))
    assert not torch.equal(exact, fast)
    torch.testing.assert_close(fast, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, fast.bfloat16().float())  # no ties between rounded logits
