"""Comparison with the Flax ViT of transformers 4.57, the last version with Flax, in another environment.

Run it with `python scripts/transformers4.py FOLDER` and `VITKIT_TRANSFORMERS4=FOLDER pytest -m slow tests/jax`.
"""

import os
from pathlib import Path

import pytest
import transformers4

ENVIRONMENT = os.environ.get("VITKIT_TRANSFORMERS4", "")


@pytest.mark.slow
@pytest.mark.skipif(not ENVIRONMENT, reason="needs transformers 4.57: set VITKIT_TRANSFORMERS4 to its environment")
@pytest.mark.parametrize("name", transformers4.CONFIGS)
def test_flax_vit_matches_transformers_4(tmp_path, name):
    figures = transformers4.compare(Path(ENVIRONMENT), tmp_path, name)
    assert set(figures) >= {"logits", "pooler_output", "last_hidden_state", "gradient", "hidden_states", "attentions"}
    assert max(value for key, value in figures.items() if not key.startswith("bf16")) <= 1e-5, figures
    assert max(value for key, value in figures.items() if key.startswith("bf16")) <= 2e-2, figures
