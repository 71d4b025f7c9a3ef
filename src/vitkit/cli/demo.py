"""The `vitkit demo` command."""

from pathlib import Path


def demo(*, out: Path = Path("runs/demo")) -> None:
    """Train a small ViT on handwritten digits and write a report.

    Takes about a minute on a CPU and needs no network. Trains on the digits inside the package, evaluates on a held-out
    fifth, classifies a few of them in the terminal, and writes a run folder with the model and report.html.

    Args:
        out: Output folder of the training run.
    """
    from vitkit.recipes.digits import demo as run

    run(out, keep_memory=True)
