"""Draws the pictures of `docs/explain.md`: a scene made by code, and what a model looks at in it.

    python docs/draw_explain.py MODEL      # a checkpoint of an ImageNet classifier; the pictures there are DeiT-Tiny's

The scene is vitkit's own, so that no photo's licence travels with the documentation.
"""

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SIZE = (640, 480)
#: Drawn larger and shrunk, for smooth edges.
FACTOR = 3


def meadow(generator: np.random.Generator) -> Image.Image:
    """A lawn out of focus: thousands of blades in greens, blurred."""
    picture = Image.new("RGB", SIZE, (46, 84, 30))
    draw = ImageDraw.Draw(picture)
    for _ in range(9000):
        x, y = generator.uniform(0, SIZE[0]), generator.uniform(0, SIZE[1])
        lean, length = generator.normal(0, 6), generator.uniform(10, 34)
        green = generator.uniform(60, 150)
        colour = (int(0.55 * green), int(green), int(0.3 * green))
        draw.line((x, y, x + lean, y - length), fill=colour, width=2)
    return picture.filter(ImageFilter.GaussianBlur(5))


def flower(generator: np.random.Generator, radius: int) -> Image.Image:
    """A daisy from above, on nothing: two rings of white petals around a yellow heart."""
    side = 2 * radius * FACTOR
    picture = Image.new("RGBA", (side, side))
    middle = side / 2
    for ring, count in ((1.0, 21), (0.88, 17)):
        for index in range(count):
            angle = 360 * (index + generator.uniform(-0.2, 0.2)) / count + 9 * ring
            length = middle * ring * generator.uniform(0.9, 0.99)
            width = middle * 0.11
            petal = Image.new("RGBA", (side, side))
            shade = int(generator.uniform(222, 252))
            ink = ImageDraw.Draw(petal)
            ink.ellipse(
                (middle + 0.18 * middle, middle - width, middle + length, middle + width),
                fill=(shade, shade, min(255, shade + 4), 255),
                outline=(170, 172, 190, 255),
                width=FACTOR,
            )
            picture.alpha_composite(petal.rotate(angle, Image.Resampling.BICUBIC))
    ink = ImageDraw.Draw(picture)
    heart = 0.27 * middle
    ink.ellipse((middle - heart, middle - heart, middle + heart, middle + heart), fill=(214, 150, 18, 255))
    for _ in range(500):
        angle, distance = generator.uniform(0, 2 * math.pi), heart * math.sqrt(generator.uniform(0, 0.95))
        x, y = middle + distance * math.cos(angle), middle + distance * math.sin(angle)
        dot = 2 * FACTOR / 3
        ink.ellipse((x - dot, y - dot, x + dot, y + dot), fill=(250, int(generator.uniform(180, 225)), 40, 255))
    return picture.resize((2 * radius, 2 * radius), Image.Resampling.LANCZOS)


def scene() -> Image.Image:
    """A daisy off the middle of a lawn."""
    generator = np.random.default_rng(7)
    picture = meadow(generator).convert("RGBA")
    draw = ImageDraw.Draw(picture)
    draw.line((405, 215, 372, 480), fill=(74, 122, 44, 255), width=9)
    picture.alpha_composite(flower(generator, 130), (275, 70))
    return picture.convert("RGB")


def draw(model: str) -> None:
    """Writes the pictures, each small enough for a repository."""
    import vitkit
    from vitkit import explain
    from vitkit.explain import subject

    classifier = vitkit.load(model)
    shown = subject.read(classifier.model, classifier.processor, [scene()], classifier.labels)
    for method in ("rollout", "gradient", "foreground", "distance", "positions", "filters"):
        path = HERE / f"explain_{method}.png"
        explain.explain(method, shown).save(path)
        if method in ("rollout", "gradient", "foreground"):
            # Charts compress well as they are, pictures do not.
            with Image.open(path) as figure:
                small = figure.convert("RGB").resize((figure.width * 2 // 3, figure.height * 2 // 3))
            small.save(path, optimize=True)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/draw_explain.py MODEL")
    draw(sys.argv[1])
