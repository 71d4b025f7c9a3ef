"""Every family goes through torch.export with a dynamic batch, and through torch.compile as one graph.

In a process of its own: the shape checks that the other tests switch on are Python that a compiler cannot look into.
"""

import os
import subprocess
import sys

import pytest

from vitkit import models

EXPORT = """
import sys, torch
from vitkit import models
model = models.build(models.family(sys.argv[1]).TINY).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
images = torch.randn(2, model.config.channels, *model.config.image_size)
program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
more = torch.randn(5, *images.shape[1:])
torch.testing.assert_close(program.module()(more), model(more), atol=1e-5, rtol=1e-5)
"""

COMPILE = """
import sys, torch
from vitkit import models
model = models.build(models.family(sys.argv[1]).TINY).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
images = torch.randn(2, model.config.channels, *model.config.image_size)
compiled = torch.compile(model, fullgraph=True, backend=sys.argv[2])
torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
"""


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


# DINO and MAE are the plain ViT under other names.
FAMILIES = [name for name in models.families() if models.family(name).Config.__module__.endswith(f".{name}")]


@pytest.mark.parametrize("family", FAMILIES)
def test_export_with_a_dynamic_batch(family: str) -> None:
    run(EXPORT, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_compile_as_one_graph(family: str) -> None:
    run(COMPILE, family, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compile_with_inductor(family: str) -> None:
    run(COMPILE, family, "inductor")
