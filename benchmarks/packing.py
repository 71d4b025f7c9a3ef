"""Measures images of mixed sizes in one ViT: packed, padded with a key mask, and one by one.

    python benchmarks/packing.py --model vit-s/16 --out benchmarks/packing_<hardware>_<date>.md

All methods have the same logits (checked first). Rounds are interleaved, so that load on the machine affects all
methods, and medians are compared. On a CPU the time is that of the computing thread, so that other programs do not
count. The second table compares implementations of packed attention.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vitkit import models
from vitkit.layers import Features
from vitkit.models import _packing


def mixed(number: int, channels: int, seed: int = 0) -> list[Tensor]:
    """Returns images of random area (as squares of 96 to 288 pixels) and aspect ratio, of complete patches."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for _ in range(number):
        side = 96 + 192 * torch.rand((), generator=generator).item()
        stretch = 2 ** (torch.rand((), generator=generator).item() - 0.5)
        size = [16 * max(1, round(length / 16)) for length in (side * stretch, side / stretch)]
        images.append(torch.randn(channels, *size, generator=generator))
    return images


def padded(model: models.TokenBackbone, images: Sequence[Tensor]) -> Tensor:
    """Returns logits with all images padded to the longest, and padding masked in attention."""
    tokens = [model.embed(image[None]).tokens[0] for image in images]
    lengths = torch.tensor([each.shape[0] for each in tokens])
    x = pad_sequence(tokens, batch_first=True)
    keys = (torch.arange(x.shape[1]) < lengths[:, None]).to(x.device)[:, None, None]
    for block in model.blocks:
        x = block(x, keys)
    return model.logits(Features(tokens=model.norm(x), grid=(1, x.shape[1] - 1), num_special=1))


def padded_in_batches(model: models.TokenBackbone, images: Sequence[Tensor], batch: int = 8) -> Tensor:
    """Returns logits as `padded`, sorted by size in batches of eight, which needs little padding."""
    order = _packing.order(images)
    parts = [padded(model, [images[i] for i in order[at : at + batch]]) for at in range(0, len(order), batch)]
    found = torch.cat(parts)
    return found[torch.tensor(order).argsort().to(found.device)]


def one_by_one(model: models.TokenBackbone, images: Sequence[Tensor]) -> Tensor:
    """Returns logits of one image after the other."""
    return torch.cat([model(image[None]) for image in images])


def processor() -> str:
    """Returns the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def seconds(function: Callable[[], object], device: str) -> float:
    """Returns the duration of a call: thread time on a CPU, wall time on a GPU."""
    if device == "cpu":
        start = time.thread_time()
        function()
        return time.thread_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(methods: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Returns the median time of every method over interleaved rounds."""
    for method in methods.values():
        method()
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            times[name].append(seconds(method, device))
    return {name: statistics.median(each) for name, each in times.items()}


def attentions(lengths: list[int], heads: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Returns implementations of attention within images, on packed tokens (n, heads, 64)."""
    q, k, v = (torch.randn(sum(lengths), heads, 64, device=device, dtype=dtype) for _ in range(3))
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    same = owner[:, None] == owner[None]
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(device)
    keys = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(device)[:, None, None]

    def each() -> Tensor:
        cut = zip(*(each.transpose(0, 1).split(lengths, dim=1) for each in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*(x[None] for x in parts))[0] for parts in cut], dim=1)

    def mask() -> Tensor:
        x = F.scaled_dot_product_attention(*(each.transpose(0, 1)[None] for each in (q, k, v)), attn_mask=same)
        return x[0]

    def nested() -> Tensor:
        x = [torch.nested.nested_tensor_from_jagged(each, offsets).transpose(1, 2) for each in (q, k, v)]
        return F.scaled_dot_product_attention(*x).transpose(1, 2).values().transpose(0, 1)

    def padding() -> Tensor:
        x = [pad_sequence(each.split(lengths), batch_first=True).transpose(1, 2) for each in (q, k, v)]
        out = F.scaled_dot_product_attention(*x, attn_mask=keys).transpose(1, 2)
        return torch.cat([part[:length] for part, length in zip(out, lengths, strict=True)]).transpose(0, 1)

    return {"per image (used)": each, "block mask": mask, "jagged tensors": nested, "padding, key mask": padding}


def report(options: argparse.Namespace) -> str:
    """Measures all methods; returns the page."""
    torch.manual_seed(0)
    device, dtype = options.device, getattr(torch, options.dtype)
    if device == "cpu":
        torch.set_num_threads(1)
    model = models.build(models.preset(options.model)).to(device, dtype).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    images = [image.to(device, dtype) for image in mixed(options.images, model.config.channels)]
    methods = {
        "packed": lambda: _packing.logits(model, images),
        "padded to the largest": lambda: padded(model, images),
        "sorted, 8 at a time, padded": lambda: padded_in_batches(model, images),
        "one by one": lambda: one_by_one(model, images),
    }
    expected = methods["one by one"]()
    gaps = {name: (method() - expected).abs().max().item() for name, method in methods.items()}
    if dtype == torch.float32 and max(gaps.values()) > 1e-4:
        raise SystemExit(f"the methods do not agree: {gaps}")
    times = measure(methods, options.rounds, device)
    lengths = [1 + (each.shape[1] // 16) * (each.shape[2] // 16) for each in images]
    cores = attentions(lengths, model.config.num_heads, device, dtype)
    core_times = measure(cores, options.rounds, device)
    where = torch.cuda.get_device_name() if device != "cpu" else f"{processor()}, 1 thread"
    real, padding = sum(lengths), len(lengths) * max(lengths)
    lines = [
        f"# Packing against padding, {options.model}, {len(images)} images of mixed sizes",
        "",
        f"{datetime.date.today()}, {where}, torch {torch.__version__}, {options.dtype}; medians of {options.rounds}",
        "interleaved rounds" + (", time of the computing thread (the machine was shared)." if device == "cpu" else "."),
        f"{real:,} tokens, {padding:,} when padded to the largest ({1 - real / padding:.0%} of them padding); "
        f"{len({each.shape for each in images})} sizes.",
        "",
        "| method | images/s | relative to packed | largest difference of a logit |",
        "|---|---|---|---|",
        *(
            f"| {name} | {len(images) / spent:.2f} | {times['packed'] / spent:.2f} | {gaps[name]:.1e} |"
            for name, spent in times.items()
        ),
        "",
        f"Attention only, {model.config.num_heads} heads of 64, the same {real:,} tokens:",
        "",
        "| method | ms per layer |",
        "|---|---|",
        *(f"| {name} | {1000 * spent:.1f} |" for name, spent in core_times.items()),
        "",
        f"    python benchmarks/packing.py --model {options.model} --images {options.images} "
        f"--rounds {options.rounds} --device {device} --dtype {options.dtype}",
    ]
    return "\n".join(lines) + "\n"


@torch.no_grad()
def main() -> None:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-s/16")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args()
    if options.images < 1 or options.rounds < 1:
        raise SystemExit("--images and --rounds must be at least 1")
    text = report(options)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
