"""torch.export with a dynamic batch, and torch.compile as one graph, for every family.

They run in another process, because torch cannot compile the shape checks that the tests enable. All families share
the process: importing torch once per family would take longer than compiling.
"""

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from vitkit import models

SCRIPT = """
import json, sys, traceback
import torch
from vitkit import models

def export(model, images):
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    more = torch.randn(5, *images.shape[1:])
    torch.testing.assert_close(program.module()(more), model(more), atol=1e-5, rtol=1e-5)

def compile(model, images, backend="aot_eager"):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)

def inductor(model, images):
    compile(model, images, "inductor")

for what, family in (job.split(":") for job in sys.argv[1:]):
    torch.manual_seed(0)
    model = models.build(models.family(family).TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    try:
        globals()[what](model, torch.randn(2, model.config.channels, *model.config.image_size))
        error = None
    except Exception:
        error = traceback.format_exc()[-3000:]
    print("RESULT", json.dumps([f"{what}:{family}", error]), flush=True)
"""

# DINO and MAE are the plain ViT under other names.
FAMILIES = [name for name in models.families() if models.family(name).Config.__module__.endswith(f".{name}")]


def result(what: str, family: str) -> str | None:
    """What went wrong with a family, None where nothing did."""
    return results(*(f"{what}:{name}" for name in FAMILIES))[f"{what}:{family}"]


@cache
def results(*jobs: str) -> dict[str, str | None]:
    """Returns the traceback of each job WHAT:FAMILY, None for success."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *jobs],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(line) for line in lines)


# Starting the process takes seconds; by default, tests/inference/test_exporters.py exports the ViT.
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_export_with_a_dynamic_batch(family: str) -> None:
    assert result("export", family) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compile_as_one_graph(family: str) -> None:
    assert result("compile", family) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compile_with_inductor(family: str) -> None:
    assert result("inductor", family) is None
