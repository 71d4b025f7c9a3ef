"""The preprocessing that a folder of timm's states, ours beside it first."""

from collections.abc import Mapping
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints.dialects import Found
from vitkit.checkpoints.errors import CheckpointError
from vitkit.data.processor import Processor


def stated_processor(found: Found, config: Any) -> Processor | None:
    """What config.json or preprocessor_config.json say, None where there is neither; CheckpointError for nonsense."""
    stated = found.config or {}
    own, cfg = stated.get("vitkit"), stated.get("pretrained_cfg")
    try:
        if isinstance(own, Mapping) and "processor" in own:
            return configs.from_dict(Processor, own["processor"], where="vitkit.processor")
        if isinstance(cfg, Mapping):
            return Processor.from_timm({**cfg, "input_size": (config.channels, *config.image_size)})
        return None if found.preprocessor is None else Processor.from_huggingface(found.preprocessor)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the preprocessing: {error}") from None
