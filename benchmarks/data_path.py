"""Measures JPEG bytes to normalized tensors on one core: vitkit and other libraries, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/data_path.py FOLDER [--num 60] [--rounds 5]

Rows with the same letter have the same pixels: `p` resized to 224 bilinearly by Pillow (transformers' PIL backend), `t`
by torch (transformers' default backend), `c` to 256 bicubically by Pillow with a center crop of 224 (timm). The time is
the smallest CPU time of the rounds, so that load on the machine has little effect; compare within one run.
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

Reader = Callable[[bytes], Any]


def vitkit_readers() -> dict[str, Reader]:
    """Returns the readers of vitkit, with and without the fast decoder."""
    squash = Processor.squash(224, profile="ignore")
    crop = Processor.crop(224, 7 / 8, profile="ignore", mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def without_turbo(reader: Reader) -> Reader:
        def run(data: bytes) -> Any:
            fast, turbo.decode = turbo.decode, lambda header, min_size=None: None
            try:
                return reader(data)
            finally:
                turbo.decode = fast

        return run

    return {
        "p vitkit, without simplejpeg": without_turbo(squash.array),
        "p vitkit": squash.array,
        "c vitkit, without simplejpeg": without_turbo(crop.array),
        "c vitkit": crop.array,
        "t vitkit, without simplejpeg": without_turbo(lambda data: array(squash, data)),
        "t vitkit, resampling by torch": lambda data: array(squash, data),
    }


def peer_readers() -> dict[str, Reader]:
    """Returns the readers of other libraries, as documented."""
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
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    images = [path.read_bytes() for path in files[: options.num]]
    readers = vitkit_readers() | peer_readers()
    least = dict.fromkeys(readers, float("inf"))
    with torch.inference_mode():
        for _ in range(options.rounds):
            for name, reader in readers.items():
                start = time.thread_time()
                for data in images:
                    reader(data)
                least[name] = min(least[name], (time.thread_time() - start) / len(images))
        pixels = {name: np.asarray(reader(images[0])) for name, reader in readers.items()}
    print(f"{len(images)} images, {np.mean([len(data) for data in images]) / 1e3:.0f} kB each, simplejpeg", end=" ")
    print("used" if turbo.equal_decoder() else "not used")
    for letter in "pct":
        rows = sorted((seconds, name) for name, seconds in least.items() if name.startswith(letter))
        base = pixels[next(name for _, name in rows if "vitkit" in name)]
        for seconds, name in rows:
            apart = np.abs(pixels[name] - base).max()
            print(f"  {name:42} {seconds * 1e3:6.2f} ms {1 / seconds:6.0f}/s   pixels within {apart:.1e}")


if __name__ == "__main__":
    main()
