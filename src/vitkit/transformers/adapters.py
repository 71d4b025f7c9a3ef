"""LoRA adapters of PEFT, trained with the module names of transformers 4 or 5."""

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from vitkit.transformers.names import V5_TO_V4


class KeyMapping(Mapping[str, str]):
    """Regular expressions that convert the keys of an adapter to the current `name_format` of a model."""

    def __init__(self, model: Any):
        self.model = model

    def _patterns(self) -> dict[str, str]:
        patterns = {}
        for v5, v4 in V5_TO_V4.items():
            layers, other, old, new = r"layers\.", "encoder.layer.", v5, v4
            if self.model.name_format == "v5":
                layers, other, old, new = r"encoder\.layer\.", "layers.", v4, v5
            escaped = old.replace(".", r"\.")
            patterns[rf"(^|\.){layers}(\d+)\.{escaped}(?=\.)"] = rf"\g<1>{other}\g<2>.{new}"
        return patterns

    def __getitem__(self, pattern: str) -> str:
        return self._patterns()[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns())

    def __len__(self) -> int:
        return len(V5_TO_V4)


class Adapters(nn.Module, ABC):
    """Attributes of a model that PEFT reads and sets."""

    _adapters: Mapping[str, Any] | None = None

    @property
    def _checkpoint_conversion_mapping(self) -> KeyMapping:
        """The conversion of adapter keys, which PEFT applies to the files that it loads."""
        return KeyMapping(self)

    @property
    def peft_config(self) -> Mapping[str, Any]:
        """The configs of the adapters of this model. Raises AttributeError if the model has no adapters."""
        if self._adapters is None:
            raise AttributeError("the model has no adapters")
        return self._adapters

    @peft_config.setter
    def peft_config(self, configs: Mapping[str, Any]) -> None:
        """Stores the adapter configs, and sets the name format of the model to that of their module names.

        The keys in the file of an adapter are the names of modules, and must be in the same format as its
        `target_modules`.
        """
        self._adapters = configs
        linear = [(v5.rpartition(".")[2], v4.rpartition(".")[2]) for v5, v4 in V5_TO_V4.items()]
        for config in configs.values():
            targets = getattr(config, "target_modules", None) or ()
            named = {target.rpartition(".")[2] for target in ([] if isinstance(targets, str) else targets)}
            if named & {v5 for v5, _ in linear}:
                self.name_format = "v5"
            elif named & {v4 for _, v4 in linear}:
                self.name_format = "v4"

    @peft_config.deleter
    def peft_config(self) -> None:
        """Removes the adapter configs."""
        self._adapters = None
