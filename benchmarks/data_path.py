"""From a JPEG file's bytes to a normalised tensor, photos a second of one core: ours and the peers, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/data_path.py PHOTOS [--num 60] [--rounds 5]

Rows with one letter give the same pixels: `p` those of Pillow squashed bilinear to 224 (transformers' PIL backend), `t`
those of torch (transformers' default backend), `c` Pillow's bicubic to 256 and the centre 224 (timm). Time is the
thread's own CPU time, the least of the rounds, so that a busy machine does little harm; compare within one run.
"""

import argparse
import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.data.processor.resampling import array
from vitkit.images import turbo

Way = Callable[[bytes], Any]


def ours() -> dict[str, Way]:
    """Our ways, with the fast decoder and without."""
    squash = Processor.squash(224, profile="ignore")
    crop = Processor.crop(224, 7 / 8, profile="ignore", mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def slowly(way: Way) -> Way:
        def run(data: bytes) -> Any:
            fast, turbo.decode = turbo.decode, lambda header: None
            try:
                return way(data)
            finally:
                turbo.decode = fast

        return run

    return {
        "p vitkit, without simplejpeg": slowly(squash.array),
        "p vitkit": squash.array,
        "c vitkit, without simplejpeg": slowly(crop.array),
        "c vitkit": crop.array,
        "t vitkit, without simplejpeg": slowly(lambda data: array(squash, data)),
        "t vitkit, resampling by torch": lambda data: array(squash, data),
    }


def peers() -> dict[str, Way]:
    """The peers as their documentation has them used."""
    import timm.data
    import torchvision
    from transformers import ViTImageProcessor, ViTImageProcessorPil

    default, by_pillow = ViTImageProcessor(), ViTImageProcessorPil()
    timms: Any = timm.data.create_transform(224, is_training=False, interpolation="bicubic", crop_pct=7 / 8)

    def opened(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    def by_torchvision(data: bytes) -> torch.Tensor:
        return torchvision.io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))

    return {
        "p transformers, PIL backend": lambda data: by_pillow(opened(data), return_tensors="np")["pixel_values"][0],
        "c timm": lambda data: timms(opened(data)),
        "t transformers, default backend": lambda data: default(opened(data), return_tensors="pt")["pixel_values"][0],
        "t transformers, decoded by torchvision": lambda data: default(by_torchvision(data), return_tensors="pt")[
            "pixel_values"
        ][0],
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--num", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    photos = [path.read_bytes() for path in files[: options.num]]
    ways = ours() | peers()
    least = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(options.rounds):
            for name, way in ways.items():
                start = time.thread_time()
                for data in photos:
                    way(data)
                least[name] = min(least[name], (time.thread_time() - start) / len(photos))
        pixels = {name: np.asarray(way(photos[0])) for name, way in ways.items()}
    print(f"{len(photos)} photos, {np.mean([len(data) for data in photos]) / 1e3:.0f} kB each, simplejpeg", end=" ")
    print("used" if turbo.equal_decoder() else "not used")
    for letter in "pct":
        rows = sorted((seconds, name) for name, seconds in least.items() if name.startswith(letter))
        base = pixels[next(name for _, name in rows if "vitkit" in name)]
        for seconds, name in rows:
            apart = np.abs(pixels[name] - base).max()
            print(f"  {name:42} {seconds * 1e3:6.2f} ms {1 / seconds:6.0f}/s   pixels within {apart:.1e}")


if __name__ == "__main__":
    main()
