"""Contract checks of components: one module per kind, with a tuple `CHECKS`.

vitkit's own tests run the same checks. A check is a function of one subject: the name of a component, or a dataclass
with the name. It raises `ContractError`, whose message says what is wrong, what was expected and what to do. The
function name is the title of the check.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vitkit.discovery import PluginError, reason

Check = Callable[[Any], None]


class ContractError(PluginError):
    """Raised by a check if a component violates its contract."""


class NotApplicableError(Exception):
    """Raised by a check that does not apply to the component. The message is the reason."""


@dataclass(frozen=True)
class Result:
    """Result of one check of a component. `status` is ok, failed or skipped; `message` is the reason."""

    kind: str
    name: str
    check: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """Results of the checks of a plug-in. `bool(report)` is True if no check failed; `print(report)` lists all."""

    plugin: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The failed checks."""
        return tuple(each for each in self.results if each.status == "failed")

    def __bool__(self) -> bool:
        """Returns True if no check failed."""
        return not self.failures

    def __str__(self) -> str:
        """Returns one line per check, and a summary."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yields the lines of the report: component names, check results, and a summary."""
        last = ("", "")
        for each in self.results:
            if last != (each.kind, each.name):
                last = (each.kind, each.name)
                yield f"{each.kind} {each.name}"
            yield f"  {each.status:<7} {each.check}" + (f": {each.message}" if each.message else "")
        passed = sum(each.status == "ok" for each in self.results)
        counted = sum(each.status != "skipped" for each in self.results)
        yield f"{self.plugin}: {passed} of {counted} checks passed"


def title(check: Check) -> str:
    """Returns the title of a check, such as "gradients reach every parameter"."""
    return check.__name__.replace("_", " ")


def run_checks(kind: str, name: str, checks: tuple[Check, ...], subject: object) -> Iterator[Result]:
    """Runs the checks of a component and yields their results.

    Each check starts from the same random seed. If the first check fails, the others are not run.
    """
    for number, check in enumerate(checks):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                check(subject)
            except NotApplicableError as error:
                yield Result(kind, name, title(check), "skipped", str(error))
            except (Exception, SystemExit) as error:  # the code of the plug-in may raise anything
                yield Result(kind, name, title(check), "failed", reason(error) + _place(error))
                if number == 0:
                    return
            else:
                yield Result(kind, name, title(check), "ok")


def expect(condition: object, message: str) -> None:
    """Raises ContractError with the message if the condition is false."""
    if not condition:
        raise ContractError(message)


def _place(error: BaseException) -> str:
    """Returns the innermost traceback line outside vitkit and libraries, such as " (mine.py, line 5)"."""
    place, trace = "", error.__traceback__
    while trace is not None:
        module = inspect.getmodule(trace.tb_frame)
        name = trace.tb_frame.f_globals.get("__name__", "") if module is None else module.__name__
        if name.startswith("vitkit.plugins.files") or not name.startswith(("vitkit", "torch", "numpy", "einops")):
            file = trace.tb_frame.f_code.co_filename
            place = f" ({file.replace(chr(92), '/').rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return "" if isinstance(error, PluginError) else place
