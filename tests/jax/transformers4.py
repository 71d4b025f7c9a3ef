"""Creates an environment with transformers 4.57 and compares its Flax ViT with ours.

    python tests/jax/transformers4.py FOLDER      # creates the environment in FOLDER if needed, then compares

A script in that environment (`SCRIPT`) saves models and their outputs; ours loads the same folders.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

PACKAGES = ["transformers==4.57.6", "jax==0.10.2", "flax==0.12.8", "torch", "numpy<2.5"]

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
CONFIGS = {
    "small": SMALL,
    "tanh": {**SMALL, "hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
    "no bias": {**SMALL, "qkv_bias": False, "num_labels": 7},
    "gray": {**SMALL, "num_channels": 1, "patch_size": 16},
    "tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 1000},
}

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, torch
from flax.traverse_util import flatten_dict
from transformers import (FlaxViTForImageClassification, FlaxViTModel, ViTConfig, ViTForImageClassification, ViTModel)
folder, config = sys.argv[1], ViTConfig(**json.loads(sys.argv[2]))
size = config.image_size
images = np.random.default_rng(0).standard_normal((2, config.num_channels, size, size), dtype=np.float32)
torch.manual_seed(0)
found = {"images": images}
for name, cls, flax in (("model", ViTModel, FlaxViTModel),
                        ("classifier", ViTForImageClassification, FlaxViTForImageClassification)):
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(f"{folder}/{name}")
    flax_model = flax.from_pretrained(f"{folder}/{name}", from_pt=True)
    output = flax_model(images, output_hidden_states=True, output_attentions=True)
    for key, value in output.items():
        found[f"{name}/{key}"] = np.stack(value) if isinstance(value, tuple) else np.asarray(value)
    half = flax.from_pretrained(f"{folder}/{name}", from_pt=True, dtype=jnp.bfloat16)
    found[f"{name}/bf16"] = np.asarray(half(images)[0], np.float32)
gradient = jax.grad(lambda images: (flax_model(images).logits ** 2).sum())(images)
found["gradient"] = np.asarray(gradient)
np.savez(f"{folder}/found.npz", **found)
"""


def build(environment: Path) -> None:
    """Creates the environment if needed."""
    if not (environment / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(environment / "bin" / "pip"), "install", "-q", *PACKAGES], check=True)


def compare(environment: Path, folder: Path, name: str) -> dict[str, float]:
    """Returns the largest difference of each output, relative to its maximum if that is above one."""
    from vitkit.jax import FlaxViTForImageClassification, FlaxViTModel

    command = [
        str(environment / "bin" / "python"),
        "-W",
        "ignore",
        "-c",
        SCRIPT,
        str(folder),
        json.dumps(CONFIGS[name]),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(folder / "found.npz") as file:
        found = {key: file[key] for key in file.files}
    figures: dict[str, float] = {}

    def note(key: str, given: object, expected: np.ndarray) -> None:
        array = np.stack([np.asarray(one, np.float32) for one in given]) if isinstance(given, tuple) else given
        difference = np.abs(np.asarray(array, np.float32) - expected).max() / max(1.0, np.abs(expected).max())
        figures[key] = max(figures.get(key, 0.0), float(difference))

    images = found["images"]
    for kind, cls in (("model", FlaxViTModel), ("classifier", FlaxViTForImageClassification)):
        model = cls.from_pretrained(folder / kind)
        output = model(images, output_hidden_states=True, output_attentions=True)
        assert [f"{kind}/{key}" for key in output] == [
            key for key in found if key.startswith(kind) and "bf16" not in key
        ]
        for key, value in output.items():
            note(key, value, found[f"{kind}/{key}"])
        half = cls.from_pretrained(folder / kind, dtype=jnp.bfloat16)
        note(f"bf16 {kind}", half(images)[0], found[f"{kind}/bf16"])
    classifier = FlaxViTForImageClassification.from_pretrained(folder / "classifier")
    gradient = jax.grad(lambda images: (classifier(images).logits ** 2).sum())(jnp.asarray(images))
    note("gradient", gradient, found["gradient"])
    return figures


def main() -> None:
    """Prints the differences for all configs."""
    environment = Path(sys.argv[1])
    build(environment)
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            print(name, json.dumps(compare(environment, Path(folder), name)))


if __name__ == "__main__":
    main()
