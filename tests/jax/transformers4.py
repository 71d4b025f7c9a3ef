"""Compares the Flax ViT of transformers 4.57 with ours; the script in `SCRIPT` runs with transformers 4.

    python scripts/transformers4.py FOLDER && python tests/jax/transformers4.py FOLDER

The script saves models, their parameters and outputs; ours loads the same folders, and the script loads ours.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

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
    flax_model.save_pretrained(f"{folder}/{name}-msgpack")
    for path, value in flatten_dict(flax_model.params, sep="/").items():
        found[f"parameter {name}/{path}"] = np.asarray(value)
    output = flax_model(images, output_hidden_states=True, output_attentions=True)
    for key, value in output.items():
        found[f"{name}/{key}"] = np.stack(value) if isinstance(value, tuple) else np.asarray(value)
    half = flax.from_pretrained(f"{folder}/{name}", from_pt=True, dtype=jnp.bfloat16)
    found[f"{name}/bf16"] = np.asarray(half(images)[0], np.float32)
bare = FlaxViTModel(config, add_pooling_layer=False)
found["bare"] = np.array(sorted(flatten_dict(bare.params, sep="/")))
found["bare keys"] = np.array(list(bare(images)))
gradient = jax.grad(lambda images: (flax_model(images).logits ** 2).sum())(images)
found["gradient"] = np.asarray(gradient)
np.savez(f"{folder}/found.npz", **found)
"""

AGAIN = """
import sys
import numpy as np
from transformers import FlaxViTForImageClassification
images = np.load(f"{sys.argv[1]}/found.npz")["images"]
outputs = [FlaxViTForImageClassification.from_pretrained(f"{sys.argv[1]}/{name}", **options)(images).logits
           for name, options in (("ours", {}), ("ours-msgpack", {}))]
np.savez(f"{sys.argv[1]}/again.npz", *outputs)
"""


def run(environment: Path, script: str, *arguments: str) -> None:
    """Runs a script with transformers 4."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(environment)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def compare(environment: Path, folder: Path, name: str) -> dict[str, float]:
    """Returns the largest difference of each output, relative to its maximum if that is above one."""
    from vitkit import FlaxViTForImageClassification, FlaxViTModel
    from vitkit.jax import flatten

    run(environment, SCRIPT, str(folder), json.dumps(CONFIGS[name]))
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
            key for key in found if key.startswith(f"{kind}/") and "bf16" not in key
        ]
        packed = cls.from_pretrained(folder / f"{kind}-msgpack")
        names = {key.removeprefix(f"parameter {kind}/") for key in found if key.startswith(f"parameter {kind}/")}
        for parameters in (flatten(model.params), flatten(packed.params)):
            assert parameters.keys() == names
            assert all((value == found[f"parameter {kind}/{key}"]).all() for key, value in parameters.items())
        assert packed.config.to_json_string() == model.config.to_json_string()
        for key, value in output.items():
            note(key, value, found[f"{kind}/{key}"])
        half = cls.from_pretrained(folder / kind, dtype=jnp.bfloat16)
        note(f"bf16 {kind}", half(images)[0], found[f"{kind}/bf16"])
    classifier = FlaxViTForImageClassification.from_pretrained(folder / "classifier")
    bare = FlaxViTModel(classifier.config, add_pooling_layer=False)
    assert sorted(flatten(bare.params)) == found["bare"].tolist()
    assert list(bare(images)) == found["bare keys"].tolist()
    classifier.save_pretrained(folder / "ours")
    classifier.save_pretrained(folder / "ours-msgpack", safe_serialization=False)
    run(environment, AGAIN, str(folder))
    for key, array in np.load(folder / "again.npz").items():
        note(f"again {key}", classifier(images).logits, array)
    gradient = jax.grad(lambda images: (classifier(images).logits ** 2).sum())(jnp.asarray(images))
    note("gradient", gradient, found["gradient"])
    return figures


def main() -> None:
    """Prints the differences for all configs."""
    environment = Path(sys.argv[1])
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            print(name, json.dumps(compare(environment, Path(folder), name)))


if __name__ == "__main__":
    main()
