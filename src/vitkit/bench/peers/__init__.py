"""Libraries to benchmark ("peers"). Each has a module with one function per supported kind of benchmark.

A function `inference(job, candidate) -> Prepared` (`classification`, `training`, `data`, `startup`) runs in the worker
and imports the library. `NEEDS` are the required distributions, the library itself first. `precisions(kind, device)`
returns the supported precisions; it is called without importing the library. The optional `make` writes files for the
other functions. `LAYOUT` is the layout of the weights that the peer reads (see `_inputs`).
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from vitkit.bench import Candidate
from vitkit.config import nearest, once
from vitkit.registry import Registry

_PEERS = Registry(__name__, "peer", ("NEEDS", "precisions"))


def peers() -> list[str]:
    """Returns the names of the libraries to benchmark, starting with vitkit."""
    return sorted(_PEERS.names(), key=lambda name: (name != "vitkit", name))


def peer(name: str) -> ModuleType:
    """Returns the Python module of a library to benchmark. Raises ValueError if the name is unknown."""
    return _PEERS.get(name)


def missing(module: ModuleType) -> str:
    """Returns the names of the Python distributions that a peer needs and that are not installed."""
    absent = []
    for name in module.NEEDS:
        try:
            distribution(name)
        except PackageNotFoundError:
            absent.append(name)
    return f"not installed: {', '.join(absent)}" if absent else ""


def candidates(kind: str, device: str, specs: Sequence[str], precisions: Sequence[str]) -> list[Candidate]:
    """Returns the candidates for a list of specs such as `timm` or `vitkit:precision=int8`.

    A spec without a precision is one candidate for each of `precisions` that the peer supports, with `all` for all of
    them. The default are all peers that support the kind. Raises ValueError for an unknown peer, an invalid setting, a
    kind that the peer does not support, and a precision that no peer supports.
    """
    specs = list(specs) or [name for name in peers() if hasattr(peer(name), kind)]
    known = {each for spec in specs for each in _precisions(spec.partition(":")[0], kind, device)}
    for precision in precisions:
        if any(known) and precision != "all" and precision not in known:
            similar = nearest(precision, [*sorted(known), "all"])
            raise ValueError(f"no library supports the precision '{precision}' on this device{similar}")
    found: list[Candidate] = []
    for spec in specs:
        found += [each for each in _parse(spec, kind, device, precisions) if each not in found]
    if not found:
        raise ValueError(f"none of the libraries {', '.join(specs)} supports the precision {' or '.join(precisions)}")
    return found


def _precisions(name: str, kind: str, device: str) -> tuple[str, ...]:
    module = peer(name)
    if not hasattr(module, kind):
        supporting = [each for each in peers() if hasattr(peer(each), kind)]
        raise ValueError(f"'{name}' does not support the benchmark {kind}; choose from {', '.join(supporting)}")
    return module.precisions(kind, device)


def _parse(spec: str, kind: str, device: str, precisions: Sequence[str]) -> list[Candidate]:
    name, *parts = spec.split(":")
    pairs = [part.partition("=") for part in parts]
    for (key, equals, value), part in zip(pairs, parts, strict=True):
        if not (key and equals and value):
            raise ValueError(f"the setting '{part}' of '{spec}' is not of the form NAME=VALUE, such as precision=int8")
    settings = once(((key, value) for key, _, value in pairs), f"the setting of '{spec}' named ")
    own = _precisions(name, kind, device)
    precision = settings.pop("precision", "")
    if precision and precision not in own:
        raise ValueError(f"{name} does not support the precision '{precision}' on this device{nearest(precision, own)}")
    chosen = (
        [precision] if precision else [each for each in own if each in precisions or "all" in precisions or not each]
    )
    module = f"{__name__}.{name}"
    return [Candidate(peer=name, precision=each, settings=tuple(settings.items()), module=module) for each in chosen]
