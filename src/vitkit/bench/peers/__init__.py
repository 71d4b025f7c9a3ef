"""Peers: one file a library, vitkit among them, and in it one function for each kind of measurement that it can do.

A function `inference(job, contender) -> Prepared` (`photos`, `training`, `data`, `startup`) imports the library itself,
in the worker. `NEEDS` are the distributions it needs, the first of them the one whose version it is known by;
`precisions(kind, device)` says what it can be asked for, and is called where the library is not imported. `make`, where
there is one, writes the files that the functions read. `LAYOUT` is the layout of the weights (`weights.py`) that it
reads.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from vitkit.bench import Contender
from vitkit.config import nearest
from vitkit.registry import Registry

_PEERS = Registry(__name__, "peer", ("NEEDS", "precisions"))


def peers() -> list[str]:
    """Returns the names of the peers, vitkit first."""
    return sorted(_PEERS.names(), key=lambda name: (name != "vitkit", name))


def peer(name: str) -> ModuleType:
    """Returns the module of one peer; ValueError for an unknown name."""
    return _PEERS.get(name)


def missing(module: ModuleType) -> str:
    """Why a peer cannot be run here: which distributions are not installed; empty where all are."""
    absent = []
    for name in module.NEEDS:
        try:
            distribution(name)
        except PackageNotFoundError:
            absent.append(name)
    return f"not installed: {', '.join(absent)}" if absent else ""


def contenders(kind: str, device: str, words: Sequence[str], precisions: Sequence[str]) -> list[Contender]:
    """The contenders that words like `timm`, `vitkit:precision=int8` or `timm:compile=max-autotune` mean.

    A word without a precision is one contender for each of `precisions` that the peer has; `all` stands for all it has.
    No words mean every peer that can do this kind. Raises ValueError for an unknown peer, a word that is no setting, a
    peer that cannot do the kind, or a precision that no peer has.
    """
    asked = list(words) or [name for name in peers() if hasattr(peer(name), kind)]
    known = {each for word in asked for each in _precisions(word.partition(":")[0], kind, device)}
    for precision in precisions:
        if any(known) and precision != "all" and precision not in known:
            raise ValueError(
                f"no peer has the precision '{precision}' here{nearest(precision, [*sorted(known), 'all'])}"
            )
    found: list[Contender] = []
    for word in asked:
        found += [each for each in _meant(word, kind, device, precisions) if each not in found]
    if not found:
        raise ValueError(f"none of {', '.join(asked)} has the precision {', '.join(precisions)}")
    return found


def _precisions(name: str, kind: str, device: str) -> tuple[str, ...]:
    module = peer(name)
    if not hasattr(module, kind):
        able = [each for each in peers() if hasattr(peer(each), kind)]
        raise ValueError(f"the peer '{name}' cannot do {kind}; {', '.join(able)} can")
    return module.precisions(kind, device)


def _meant(word: str, kind: str, device: str, precisions: Sequence[str]) -> list[Contender]:
    name, *parts = word.split(":")
    pairs = [part.partition("=") for part in parts]
    for (key, equals, value), part in zip(pairs, parts, strict=True):
        if not (key and equals and value):
            raise ValueError(f"the peer '{word}' takes settings as NAME=VALUE, not '{part}'")
    settings = {key: value for key, _, value in pairs}
    own = _precisions(name, kind, device)
    said = settings.pop("precision", "")
    if said and said not in own:
        raise ValueError(f"{name} has no precision '{said}' here{nearest(said, own)}")
    chosen = [said] if said else [each for each in own if each in precisions or "all" in precisions or not each]
    module = f"{__name__}.{name}"
    return [Contender(peer=name, precision=each, settings=tuple(settings.items()), module=module) for each in chosen]
