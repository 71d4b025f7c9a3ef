"""An explanation: the norm of the patch tokens after the last block, as a map over each image.

    vitkit check ./my_explanation.py
    vitkit explain MODEL photo.jpg --method ./my_explanation.py --out photo.png

The method is named after the file. `vitkit.explanation` has the kinds of drawings: Overlay (maps over images), Tiles,
Dots and Curves.
"""

import numpy as np
import torch
from einops import rearrange

from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.layers import eval_mode


def explain(subject: ExplainInputs, *, power: float = 1.0) -> Explanation:
    """Returns the norms of the patch tokens. Parameters after the star are options with default values.

    `subject.model` is the model. `subject.pixels` (b, channels, height, width) are the preprocessed images, and
    `subject.images` are the same images for display. Raise ValueError if the method does not support the model.
    """
    if not len(subject.images):
        raise ValueError("my_explanation explains images; give at least one")
    with eval_mode(subject.model), torch.no_grad():
        features = subject.model.features(subject.pixels)
    norms = features.patches.float().norm(dim=2) ** power
    rows, columns = features.grid
    maps = rearrange(norms, "b (r c) -> b r c", r=rows, c=columns).cpu().numpy()
    captions = tuple(f"norm {each.min():.3g} to {each.max():.3g}" for each in maps)
    drawing = Overlay(
        "Norm of the patch tokens",
        images=subject.images,
        captions=captions,
        # A map has one value per patch; style "mask" or "rgb" draws masks or colors.
        maps=(Map("norm", maps.astype(np.float32), "heat"),),
    )
    # `--arrays FILE.npz` saves these arrays.
    return Explanation(arrays={"norms": maps}, drawing=drawing)
