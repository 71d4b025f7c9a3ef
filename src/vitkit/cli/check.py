"""The `vitkit check` command."""

from typing import Annotated, Literal

from tyro.conf import Positional, arg

Kind = Literal["model", "objective", "source", "evaluator", "explanation", "format", "recipe"]


def check(
    plugin: Annotated[Positional[str], arg(metavar="PLUGIN")],
    *,
    kind: Kind | None = None,
    json: bool = False,
) -> int:
    """Check a plug-in.

    Runs the same checks that the built-in models, objectives and other components pass, and prints one line per check.
    The exit code is 1 if a check fails.

    Args:
        plugin: Plug-in to check: a Python file (./mine.py), one component of a file (./mine.py:loss), or an installed
            package.
        kind: Check only components of this kind. Required for a function if neither a decorator nor its type
            annotations show its kind.
        json: Print one line of JSON per check.
    """
    from dataclasses import asdict

    from vitkit import plugins
    from vitkit.cli._outcomes import json_line

    report = plugins.check(plugin, kind=kind)
    if json:
        for result in report.results:
            print(json_line(asdict(result)))
    else:
        print(report)
    return 0 if report else 1
