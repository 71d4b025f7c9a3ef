"""Kinds of measurement: one file each, found by its file name.

`UNIT` is what rates are counted in; with `SHOWS_SECONDS` a table shows times. `DEFAULTS` are the options that a person
who says nothing gets. `jobs(options)` gives the sections. `limits(job, contenders)` are the contenders that measure
what the machine could do, and `work(job)` how much of that one item needs. `REFERENCES` are the peers whose answers are
taken as right, the first of them that works; `judge(outputs, reference, contender)` says how far an answer is from
that, and whether that is still the same answer; `DIFFERENCE` is what the number means.
"""

from types import ModuleType

from vitkit.bench import Job, Options, machine
from vitkit.registry import Registry

_KINDS = Registry(__name__, "kind of benchmark", ("jobs", "judge"))


def kinds() -> list[str]:
    """Returns the names of the kinds of benchmarks."""
    return _KINDS.names()


def kind(name: str) -> ModuleType:
    """Returns the module of one kind; ValueError for an unknown name."""
    return _KINDS.get(name)


def job_of(options: Options, model: str, batch: int) -> Job:
    """A job of the options' kind, before its weights and photos are written."""
    return Job(
        kind=options.kind,
        task=options.kind,
        model=model,
        batch=batch,
        threads=options.threads or machine.threads(),
        device=machine.device(options.device),
    )
