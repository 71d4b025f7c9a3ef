"""Contract checks: one module per kind of component, each with `CHECKS`, which vitkit's own tests run, too.

A check is a function of one subject (the name of a component, or a dataclass with the name). It raises `ContractError`,
whose message says what was wrong, what was expected and what to do. Its name is its title.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vitkit.discovery import PluginError, reason

Check = Callable[[Any], None]


class ContractError(PluginError):
    """Raised by a check if a component does not keep its contract."""


class NotApplicableError(Exception):
    """Raised by a check that does not apply to the component, with the reason."""


@dataclass(frozen=True)
class Result:
    """Result of a check of a component: `status` is ok, failed or skipped, and `message` says why."""

    kind: str
    name: str
    check: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """Results of the checks of a plug-in. `bool(report)` is whether none failed, and printing it lists all."""

    plugin: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The checks that failed."""
        return tuple(each for each in self.results if each.status == "failed")

    def __bool__(self) -> bool:
        """Returns whether no check failed."""
        return not self.failures

    def __str__(self) -> str:
        """Returns one line per check, and a summary."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yields the lines of the report: the name of each component, its checks, and a summary."""
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
    """Runs the checks of a component, from the same random seed each. If the first fails, the others are not run."""
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
    """Raises ContractError with a message unless the condition is true."""
    if not condition:
        raise ContractError(message)


def _place(error: BaseException) -> str:
    """Returns the last file and line outside of vitkit and torch that an error passed, as " (mine.py, line 5)"."""
    place, trace = "", error.__traceback__
    while trace is not None:
        module = inspect.getmodule(trace.tb_frame)
        name = trace.tb_frame.f_globals.get("__name__", "") if module is None else module.__name__
        if name.startswith("vitkit.plugins.files") or not name.startswith(("vitkit", "torch", "numpy", "einops")):
            file = trace.tb_frame.f_code.co_filename
            place = f" ({file.replace(chr(92), '/').rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return "" if isinstance(error, PluginError) else place
