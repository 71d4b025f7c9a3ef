"""`vitkit.list_models`: lists the architectures."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from vitkit import models


def list_models(filter: str = "*") -> list[str]:  # noqa: A002 - the name in timm
    """Lists the names of architectures for `vitkit.create_model` and `vitkit.train`.

    `vitkit.create_model` also accepts names of timm, transformers and torchvision, which are not listed here.

    Args:
        filter: Pattern of names with the wildcards * and ?, such as `vit-*` or `*/16`. Text without wildcards matches
            every name that contains it.

    Example:
        >>> vitkit.list_models("vit-b*")
        ['vit-b/8', 'vit-b/14', 'vit-b/16', 'vit-b/32']
    """
    return matching(models.presets(), filter)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the names that match a pattern with * and ?, or that contain it if it has no wildcard."""
    wild = any(sign in pattern for sign in "*?[")
    return [name for name in names if (fnmatchcase(name, pattern) if wild else pattern in name)]
