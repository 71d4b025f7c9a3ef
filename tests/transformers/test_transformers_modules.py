"""The module tree of transformers 4: users' programs give the results that they give with transformers 4.57.6."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from user_code4 import PROGRAMS, SMALL

import vitkit
from vitkit import ViTConfig, ViTForImageClassification

USER_CODE = Path(__file__).parent / "user_code4.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = os.environ.get("VITKIT_TRANSFORMERS4")
    if not packages or not Path(packages).is_dir():
        pytest.skip("needs transformers 4: run scripts/transformers4.py FOLDER and set VITKIT_TRANSFORMERS4=FOLDER")
    path = tmp_path_factory.mktemp("user_code")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**SMALL, num_labels=3, initializer_range=0.1)).save_pretrained(path)
    packages = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, str(USER_CODE), str(path)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def compare(expected: Any, got: Any, where: str) -> None:
    """Compares results: numbers and tensors to float32 precision, the rest exactly."""
    if isinstance(expected, dict):
        assert list(expected) == list(got), where
        for name, value in expected.items():
            compare(value, got[name], f"{where}.{name}")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=lambda text: f"{where}: {text}")
    elif isinstance(expected, list) and expected and all(isinstance(value, float | Tensor) for value in expected):
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=2e-5, msg=lambda text: f"{where}: {text}")
    else:
        assert got == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_the_results_of_transformers_4(folder: Path, name: str) -> None:
    expected = torch.load(folder / "results.pth", weights_only=False)[name]
    torch.manual_seed(0)
    compare(expected, PROGRAMS[name](vitkit, str(folder)), name)
