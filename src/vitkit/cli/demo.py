"""`vitkit demo`."""

from pathlib import Path


def demo(*, out: Path = Path("runs/demo")) -> None:
    """Train a small ViT on handwritten digits, here and now, and report.

    About a minute on a CPU: trains with a progress bar on the digits inside the package, evaluates on a held-out
    fifth, reads a few of them in the terminal, and writes a run folder with the model and a report.html. No network.

    Args:
        out: The run folder to make.
    """
    from vitkit.recipes.digits import demo as run

    run(out, keep_memory=True)
