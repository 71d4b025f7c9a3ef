"""The `vitkit models` command."""

import json as json_format
from typing import Annotated

from tyro.conf import Positional, arg


def models(name: Annotated[Positional[str], arg(metavar="NAME")] = "", *, json: bool = False) -> None:
    """List the architectures.

    Parameter counts are for 224 x 224 images and 1000 classes. `vitkit inspect NAME` shows the details of a model.

    Args:
        name: List only the architectures whose name contains this text.
        json: Print one line of JSON per architecture.
    """
    from rich.console import Console
    from rich.table import Table

    from vitkit import models as zoo
    from vitkit.config import nearest

    found = {preset: config for preset, config in zoo.presets().items() if name in preset}
    if not found:
        raise ValueError(f"no architecture name contains '{name}'{nearest(name, zoo.presets())}")
    rows = []
    for preset, config in found.items():
        model = zoo.build(config, device="meta")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append({"name": preset, "parameters": parameters, "width": model.width})
    if json:
        for row in rows:
            print(json_format.dumps(row))
        return
    table = Table("name", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("width", justify="right")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}", str(row["width"]))
    Console(highlight=False).print(table)
