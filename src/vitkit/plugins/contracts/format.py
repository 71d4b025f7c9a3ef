"""Contract checks of checkpoint formats. Each check takes a `Subject`: a format and a supported config."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.formats import Format, all_formats
from vitkit.config import AnyConfig
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.plugins.contracts import ContractError, NotApplicableError, expect


@dataclass(frozen=True)
class Subject:
    """A format name and the config of the model to save. If None, the small config of its family is used."""

    name: str
    config: AnyConfig = None

    @property
    def format(self) -> Format:
        """The format with this name. Raises ContractError if there is none."""
        found = [each for each in all_formats() if each.name == self.name]
        if not found:
            raise ContractError("the format is not in the list of formats; expected a Format with a unique name")
        return found[0]

    def checkpoint(self) -> Checkpoint:
        """Returns a checkpoint with random weights. Raises NotApplicableError if the format does not support it."""
        config = self.config or (vit if self.format.family is None else models.family(self.format.family)).TINY
        if reason := self.format.unsupported_reason(config):
            raise NotApplicableError(f"it does not support the small model of vitkit's tests: {reason}")
        model = models.build(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        mean = (0.5,) * config.channels
        processor = Processor.squash(config.image_size, mean=mean, std=mean, fill=(0,) * len(mean))
        labels = default_labels(config.num_classes, regression=config.task.regression)
        return Checkpoint(model=model.eval(), processor=processor, labels=labels)


def the_format_is_complete(subject: Subject) -> None:
    """Checks the targets and the model family of the format."""
    layout = subject.format
    expect(layout.name in layout.targets or layout.targets, f"targets is {layout.targets}; expected ('{layout.name}',)")
    expect(
        layout.family is None or layout.family in models.families(),
        f"family is '{layout.family}'; expected one of {', '.join(models.families())}, or None for any",
    )


def tables_convert_state_dicts_both_ways(subject: Subject) -> None:
    """Checks that the table converts a state dict to the format and back, bit for bit."""
    made, layout = subject.checkpoint(), subject.format
    heads = getattr(made.model.config, "num_heads", 1)
    state = made.model.state_dict()
    loaded = layout.table.loaded(layout.table.saved(state, heads))
    expect(loaded.keys() == state.keys(), f"the table restores other names: {sorted(loaded.keys() ^ state.keys())[:5]}")
    differ = [name for name, tensor in loaded.items() if not torch.equal(tensor, state[name])]
    expect(not differ, f"the table changes the values of {', '.join(differ[:5])}")


def a_saved_checkpoint_loads_bit_for_bit(subject: Subject) -> None:
    """Checks that a written checkpoint is recognized as this format, and loads with equal weights and labels."""
    made, layout = subject.checkpoint(), subject.format
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"written{layout.suffix}"
        # A single file may be unable to hold labels, preprocessing and config.
        written = checkpoints.save_checked(made, target, to=layout.targets[0], lossy=layout.suffix != "").format
        expect(
            written == layout.name, f"to='{layout.targets[0]}' wrote the format '{written}'; expected '{layout.name}'"
        )
        loaded = checkpoints.load(target)
        expect(
            loaded.origin.format == layout.name,
            f"the file is recognized as '{loaded.origin.format}'; `accepts` and "
            f"`anchors` must distinguish '{layout.name}'",
        )
        state = made.model.state_dict()
        differ = [name for name, each in loaded.model.state_dict().items() if not torch.equal(each, state[name])]
        expect(not differ, f"the loaded weights differ in {', '.join(differ[:5])}")
        expect(loaded.labels == made.labels, f"the labels {made.labels} were loaded as {loaded.labels}")
        if layout.suffix == "":
            expect(
                loaded.model.config == made.model.config,
                f"the config {made.model.config} was loaded as {loaded.model.config}",
            )
            expect(loaded.processor == made.processor, f"{made.processor} was loaded as {loaded.processor}")
        images = torch.randn(2, made.model.config.channels, *made.model.config.image_size)
        expect(torch.equal(loaded.model(images), made.model(images)), "the loaded model has other logits")


CHECKS = (the_format_is_complete, tables_convert_state_dicts_both_ways, a_saved_checkpoint_loads_bit_for_bit)
