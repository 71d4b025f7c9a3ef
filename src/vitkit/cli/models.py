"""The `vitkit models` command."""

import json as json_format
import sys
from typing import Annotated

from tyro.conf import Positional, arg


def models(name: Annotated[Positional[str], arg(metavar="NAME")] = "", *, json: bool = False) -> None:
    """List the architectures.

    Parameter counts are for the native image size of each architecture, which is usually 224 x 224, and for 1000
    classes. `vitkit inspect NAME` shows the details of an architecture.

    Args:
        name: List only the architectures whose name contains this text, or matches it with the wildcards * and ?. A
            model name of timm or transformers is also accepted: vit_base_patch16_224 lists vit-b/16.
        json: Print one line of JSON per architecture.
    """
    from vitkit import models as zoo
    from vitkit.api.list_models import list_models
    from vitkit.discovery import reason
    from vitkit.tables import table

    found = list_models(name) or [each for each in (zoo.canonical_name(name),) if each]
    if not found:
        raise ValueError(f"no architecture name contains '{name}'{zoo.did_you_mean(name)}")
    rows = []
    for preset in found:
        try:
            model = zoo.build(zoo.preset(preset), device="meta")
        except Exception as error:  # the code of a plug-in may raise any exception
            print(f"vitkit: the model '{preset}' cannot be built: {reason(error)}", file=sys.stderr)
            continue
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append({"name": preset, "parameters": parameters, "width": model.width})
        if json:
            print(json_format.dumps(rows[-1]))
    if not json:
        cells = [(str(row["name"]), f"{row['parameters']:,}", str(row["width"])) for row in rows]
        print(table(cells, ("name", "parameters", "width"), right=(1, 2)))
