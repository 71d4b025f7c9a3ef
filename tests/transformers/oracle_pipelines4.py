"""Runs the pipelines of transformers with vitkit's model and processor; test_pipeline_options.py runs it for version 4.

Usage: python oracle_pipelines4.py FOLDER, with the folder of transformers 4 first in PYTHONPATH. The folder contains a
classifier, a model without a head in `bare`, and `image.png`. Prints the results of vitkit's classes and of
transformers' own as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vitkit.transformers


def results(module: Any, folder: Path) -> dict[str, Any]:
    """Returns the results of transformers' pipelines with the classes of a module."""
    import transformers

    model = module.ViTForImageClassification.from_pretrained(folder)
    bare = module.ViTModel.from_pretrained(folder / "bare")
    processor = getattr(module, "ViTImageProcessorPil", None) or module.ViTImageProcessor
    processor = processor.from_pretrained(folder)
    image = Image.open(folder / "image.png")
    classify = transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    embed = transformers.pipeline("image-feature-extraction", model=bare, image_processor=processor, device="cpu")
    older = transformers.pipeline("image-classification", model=model, feature_extractor=processor, device="cpu")
    return {
        "one": classify(image),
        "older": older(image),
        "batches": classify([image] * 3, batch_size=2, top_k=2),
        "generator": list(classify((image for _ in range(3)), batch_size=2)),
        "tokens": np.asarray(embed(image)).tolist(),
        "pooled": embed(image, pool=True),
        "many": np.asarray(embed([image] * 3, batch_size=2)).tolist(),
        "tensor": np.asarray(embed(image, return_tensors=True)).tolist(),
    }


def main(folder: Path) -> None:
    """Prints the results of both."""
    import transformers

    transformers.logging.set_verbosity_error()
    modules = {"vitkit": vitkit.transformers, "transformers": transformers}
    print(json.dumps({name: results(module, folder) for name, module in modules.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
