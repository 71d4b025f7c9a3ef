"""Training recipes: configs of training runs by name, with the command to start them and expected accuracies.

Each file of this folder lists its recipes in `RECIPES`. To add a recipe, add an entry to a list or add a file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vitkit.config import nearest
from vitkit.registry import Registry
from vitkit.training.run import Run

_MODULES = Registry(__name__, "recipe file", ("RECIPES",))


@dataclass(frozen=True)
class Recipe:
    """A training recipe, such as `digits.tiny`: a training run, its description and the expected accuracy.

    Args:
        name: `file.recipe`, the name on the command line.
        summary: Model, dataset and length of the training, without a final full stop.
        base: Builds the run from the name and the overrides.
        overrides: Keyword arguments of `base`: what distinguishes this recipe from others with the same base.
        expected: Accuracy to expect.
        source: Where the settings and the expected accuracy come from.
        data: Argument of `--data` in the example command.
        options: Further arguments of the example command.
        notes: Differences from the source, measured times and other remarks.
    """

    name: str
    summary: str
    base: Callable[..., Run]
    overrides: Mapping[str, object] = field(default_factory=dict)
    expected: str = ""
    source: str = ""
    data: str = "SOURCE"
    options: str = ""
    notes: str = "Training time was not measured."

    def run(self) -> Run:
        """Returns the config of the training run."""
        return self.base(self.name, **self.overrides)

    @property
    def command(self) -> str:
        """An example command that starts the training run."""
        return f"vitkit train {self.name} --data {self.data} {self.options}".rstrip()

    @property
    def description(self) -> str:
        """Text that describes the recipe: summary, expected accuracy, command and notes."""
        expected = f": {self.expected}" if self.expected else ""
        source = f" ({self.source})" if self.source else ""
        paragraphs = (f"{self.summary}{expected}{source}.", f"`{self.command}`", self.notes)
        return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def recipes() -> dict[str, Recipe]:
    """Returns all recipes by name."""
    return {entry.name: entry for _, module in _MODULES for entry in module.RECIPES}


def recipe(name: str) -> Run:
    """Returns the config of the training run of a recipe. Raises ValueError if the name is unknown."""
    known = recipes()
    if name not in known:
        raise ValueError(f"unknown recipe '{name}'{nearest(name, known)}")
    return known[name].run()
