"""The run folder: config.json, log.jsonl, checkpoints/ (states to go on from), best/ (a checkpoint folder),
report.html.
"""

from pathlib import Path

from vitkit import atomic
from vitkit.train import run as runs
from vitkit.train.run import Run


class RunFolder:
    """The places in a run folder."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.states = path / "checkpoints"
        self.best = path / "best"
        self.report = path / "report.html"

    def refuse(self, run: Run) -> None:
        """Raises ValueError, with nothing written, where the folder holds another run or other things."""
        if self.config.exists():
            names = runs.differences(self.run(), run)
            if names:
                shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
                raise ValueError(f"'{self.path}' holds another run, which differs in {shown}: choose another folder")
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"'{self.path}' exists and is no run folder: choose another name, or an empty folder")

    def claim(self, run: Run) -> None:
        """Makes the folder this run's own, or finds that it is already; ValueError as `refuse`."""
        self.refuse(run)
        if self.config.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.config, runs.to_json(run))

    def run(self) -> Run:
        """The run that the folder holds; ValueError where it holds none."""
        try:
            text = self.config.read_text(encoding="utf-8")
        except OSError:
            raise ValueError(f"'{self.path}' is no run folder: it has no config.json that can be read") from None
        try:
            return runs.from_json(text)
        except ValueError as error:
            raise ValueError(f"{self.config} is not the config of a run: {error}") from None
