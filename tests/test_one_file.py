"""A model family and a recipe are one new file each: contract tests over files added to a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vitkit

TESTS = Path(__file__).parent
MODEL = '''
"""Mean of patch embeddings, normalized, and a linear head."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import Features, PatchEmbed
from vitkit.models import Backbone


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the model."""

    image_size: tuple[int, int] = (32, 32)
    patch_size: tuple[int, int] = (8, 8)
    channels: int = 3
    width: int = 16
    num_classes: int = 5


class PatchMean(Backbone):
    """Patch embedding, LayerNorm, mean and head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        self.blocks = nn.ModuleList()
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()

    def features(self, images: Float[Tensor, "b c height width"]) -> Features:
        """The normalized patch tokens."""
        tokens = self.patch_embed(images)
        grid = (tokens.shape[2], tokens.shape[3])
        return Features(tokens=self.norm(rearrange(tokens, "b d r c -> b (r c) d")), grid=grid, num_special=0)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """The mean of the tokens."""
        return features.tokens.mean(dim=1)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fills every parameter."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
                module.reset_parameters()


Model = PatchMean
PRESETS = {"patch-mean": Config(image_size=(224, 224), patch_size=(16, 16), width=192, num_classes=1000)}
TINY = Config()
'''
RECIPE = '''
"""A recipe in a file of its own."""

from vitkit.recipes import Recipe, digits

RECIPES = (Recipe("extra.digits", "Digits again", digits.tiny, expected="98 %", source="here", data="digits"),)
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "tests", "name"),
    [
        ("models/patch_mean.py", MODEL, ["models/test_contracts.py", "models/test_backbone_structure.py"], "patch"),
        ("recipes/extra.py", RECIPE, ["recipes/test_recipes.py"], "extra.digits"),
    ],
    ids=["model", "recipe"],
)
def test_the_contract_tests_pass_for_an_added_file(
    file: str, content: str, tests: list[str], name: str, tmp_path: Path
) -> None:
    package = tmp_path / "vitkit"
    shutil.copytree(Path(vitkit.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / file).write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name, *tests],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
