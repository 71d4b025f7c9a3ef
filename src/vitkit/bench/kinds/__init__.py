"""Kinds of benchmarks. Each kind is a module, and its name is the file name.

`UNIT` is the unit of rates; with `SHOWS_SECONDS` tables show times. `DEFAULTS` are the default options. `jobs(options)`
returns the sections. `limits(job, candidates)` returns the candidates that measure the limit of the hardware, and
`work(job)` the work of one item in units of the limit. `REFERENCES` are the peers whose outputs are the reference: the
first one that runs. `check_outputs(outputs, reference, candidate)` returns the difference, described by `DIFFERENCE`,
and whether the outputs are correct.
"""

from types import ModuleType

from vitkit.bench import Job, Options, machine
from vitkit.registry import Registry

_KINDS = Registry(__name__, "kind of benchmark", ("jobs", "check_outputs"))


def kinds() -> list[str]:
    """Returns the names of the kinds of benchmarks."""
    return _KINDS.names()


def kind(name: str) -> ModuleType:
    """Returns the Python module of a kind of benchmark. Raises ValueError if the name is unknown."""
    return _KINDS.get(name)


def make_job(options: Options, model: str, batch: int) -> Job:
    """Creates a job for a model and batch size. Weights and images are written later."""
    return Job(
        kind=options.kind,
        task=options.kind,
        model=model,
        batch=batch,
        threads=options.threads or machine.threads(),
        device=machine.device(options.device),
    )
