"""`vitkit.list_recipes`: lists the training recipes."""

from vitkit import recipes
from vitkit.api.list_models import matching


def list_recipes(filter: str = "*") -> list[str]:  # noqa: A002 - the name in timm
    """Lists the names of training recipes for `vitkit.train`. `vitkit recipes NAME` describes one.

    Args:
        filter: Pattern of names with the wildcards * and ?, such as `vit.*`. Text without wildcards matches every name
            that contains it.

    Example:
        >>> vitkit.list_recipes("digits*")
        ['digits.tiny']
    """
    return matching(recipes.recipes(), filter)
