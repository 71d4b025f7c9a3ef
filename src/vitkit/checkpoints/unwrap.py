"""Finds the model's state dict in a training checkpoint, with its name prefix, its head and unrelated tensors.

Every tensor is accounted for. It belongs to the model, it is a part of training that cannot change the output of the
model (ignored, and listed in the notes), or it could change the output (an error).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.table import COUNTER
from vitkit.checkpoints.tensors import Info, Tensors

# Parts of names that torch and its wrappers insert anywhere: DDP, compile, FSDP, checkpointing, DeepSpeed, Opacus.
TRANSPARENT = {
    *("module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"),
    *("_fpw_module", "_ddp_module"),
}
# Every name is compared with every copy.
MAX_COPIES = 64
# Keys under which training scripts save a state dict, in order of preference if a file has several copies.
WRAPPERS = (
    *("teacher", "state_dict_ema", "model_ema", "ema", "base_encoder", "model", "state_dict", "params", "img"),
    *("an unknown name", "momentum_encoder", "student"),
)
PLAIN = {"backbone", "encoder", "opt", "target", "net"}
AVERAGED = re.compile(r"(.*_)?(ema|swa|averaged?|shadow)(_.*)?")
# Parts of a training run that are not weights of the model, by any component of the name.
TRAINING = re.compile(
    r"optim.*|.*_optim(izers?)?|opt|.*sched.*|.*scaler|amp|callbacks|loops|rng.*|.*rng_states?|.*loss.*|criterion.*"
    r"|.*metrics?|(.*_)?(acc|accuracy|auroc|f1|confmat)\d*|history|.*momentum.*|exp_avg.*|.*grads?|gradients|args"
    r"|h(yper_)?param(eter)?s|config|cfg|epoch|.*step|queue.*|center"
)
# Parts of pre-training. A single linear layer of such a name can also be the head of a classifier.
PRETRAINING = re.compile(r"proto(type)?s?|predictor|projector|projection_head|decoder.*|mask_token|discriminator")
# Parts of two-tower files next to the image tower.
TEXT_TOWER = re.compile(r"(params/)?(txt|t|b|extra)(/.*)?")
# Single numbers that scale or shift outputs.
SCALES = re.compile(r".*(temperature|temp|tau|scale|bias|shift|gain)[^.]*")
CHUNK = re.compile(r"((?:.*\.)?blocks)\.(\d{1,5})\.(\d{1,5})\.(.*)")
LAYER = re.compile(r"(.*?)\.?(weight|bias)")


@dataclass(frozen=True)
class Name:
    """The full name of a tensor in the file, the dict that contains the tensor, and the key without wrapper prefix."""

    original: str
    root: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """The tensors of a model, with the prefix of their names in the training checkpoint removed.

    `head` are the names of the weight and bias of a linear layer next to the backbone, and `outside` other tensors
    that could change the output. `optional` says that the layer may be a part of pre-training if the backbone has a
    head itself.
    """

    wrapper: str
    tensors: Tensors
    head: dict[str, str] = field(default_factory=dict)
    optional: bool = False
    outside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """The tensor names of a weights file, parsed to find the model's state dict."""

    tensors: Tensors
    anchors: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)

    @cached_property
    def all(self) -> list[Name]:
        """All tensor names, in the order of the file."""
        roots = set(self.tensors.roots)
        return [_name(name, roots) for name in self.tensors.infos]

    def applicable(self, ignored: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Returns the entries of `ignored` whose third element is missing or matches a tensor name."""
        return [each for each in ignored if len(each) < 3 or self._has(each[2])]

    def _has(self, pattern: str) -> bool:
        return any(re.search(pattern, name) for name in self.tensors.infos)

    def unwrap(self, anchor: str, ignored: Sequence[tuple[str, ...]]) -> Unwrapped | None:
        """Returns the tensors of the model, or None if no tensor name matches the pattern `anchor` after a prefix.

        `ignored` are those of a `Format`: patterns of names that do not change the output, each with a description.
        """
        found = self._found(anchor)
        ignored = self.applicable(ignored)
        copies = [each for each in found if not _is_training("".join(each))]
        if not copies:
            return None
        chosen = _chosen(copies)
        others = [each for each in copies if each != chosen]
        return self._of(chosen, found[chosen], others, ignored)

    def _found(self, anchor: str) -> dict[tuple[str, str], str]:
        """Returns the name prefixes of all copies of the model, by dict (root) and wrapper prefix."""
        if anchor not in self.anchors:
            prefixed = re.compile(rf"(?P<wrapper>(?:.*?[./])??)(?:{anchor})")
            last = re.compile(rf"(?:{anchor})$")
            self.anchors[anchor] = {
                (name.root, match["wrapper"]): _before(name, match)
                for name in self.all
                if last.search(name.key) and (match := prefixed.fullmatch(name.key))
            }
        if len(found := self.anchors[anchor]) > MAX_COPIES:
            raise CheckpointError(
                f"the file has {len(found):,} sets of weights; append the name of one of them, as in FILE:NAME"
            )
        return found

    def _of(
        self, chosen: tuple[str, str], shown: str, copies: list[tuple[str, str]], ignored: Sequence[tuple[str, ...]]
    ) -> Unwrapped:
        root, wrapper = chosen
        inside: dict[str, str] = {}
        outside: list[Name] = []
        pretraining: list[Name] = []
        notes: dict[str, None] = {}
        for name in self.all:
            if copy := next((each for each in copies if name.root == each[0] and name.key.startswith(each[1])), None):
                notes[f"ignored: {''.join(copy).rstrip('./')} (another copy of the weights)"] = None
            elif name.root != root or not name.key.startswith(wrapper):
                if reason := _not_model(name, self.tensors.infos[name.original], root, ignored):
                    notes[f"ignored: {reason}"] = None
                elif _matches(PRETRAINING, name.original if name.root != root else name.key):
                    pretraining.append(name)
                else:
                    outside.append(name)
            elif (key := name.key[len(wrapper) :]) and _is_counter(key, self.tensors.infos[name.original]):
                notes[f"ignored: {name.original} (a number, not model weights)"] = None
            elif key in inside:
                raise CheckpointError(f"{inside[key]} and {name.original} both map to the same tensor; keep only one")
            else:
                inside[key] = name.original
        head = _linear(outside or pretraining, self.tensors)
        if outside or not head:
            notes |= {f"ignored: {_pretraining_part(name)} (a part of pre-training)": None for name in pretraining}
        kept = self.tensors.select(_unchunked(inside))
        return Unwrapped(
            wrapper=shown,
            tensors=kept,
            head={leaf: name.original for leaf, name in head.items()},
            optional=not outside,
            outside=tuple(name.original for name in outside if not head),
            notes=(*((f"weights under '{shown}'",) if shown else ()), *notes),
        )


def _before(name: Name, match: re.Match[str]) -> str:
    """Returns the part of a tensor's full name that precedes the match of the anchor pattern."""
    rest = name.key[match.end("wrapper") :]
    known = name.original.endswith(rest)
    return name.original.removesuffix(rest) if known else name.root + match["wrapper"]


def _name(name: str, roots: set[str]) -> Name:
    at = len(name)
    while (at := name.rfind(".", 0, at)) >= 0 and name[: at + 1] not in roots:
        pass
    root, key = name[: at + 1], name[at + 1 :]
    if not TRANSPARENT.isdisjoint(parts := key.split(".")):
        key = ".".join(part for part in parts[:-1] if part not in TRANSPARENT) + f".{parts[-1]}"
    return Name(name, root, key.removeprefix("."))


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[./]", path) if part and part not in TRANSPARENT]


def _is_training(path: str) -> bool:
    return _matches(TRAINING, path) and _parts(path)[:2] != ["opt", "target"]


def _matches(pattern: re.Pattern[str], path: str) -> bool:
    return any(pattern.fullmatch(part) for part in _parts(path))


def _pretraining_part(name: Name) -> str:
    return next(part for part in _parts(name.original) if PRETRAINING.fullmatch(part))


def training_part(name: str) -> str | None:
    """Returns a description if a tensor belongs to the training state, or None if it can be a model weight."""
    part = _parts(name)[0] if _parts(name) else ""
    return f"{part} (not model weights)" if TRAINING.fullmatch(part) else None


def _chosen(copies: list[tuple[str, str]]) -> tuple[str, str]:
    """Returns the preferred copy of the weights, such as EMA weights.
    Raises CheckpointError if two copies have the same priority.
    """
    ranked = sorted(copies, key=_rank)
    equal = [each for each in ranked if _rank(each) == _rank(ranked[0])]
    if len(equal) > 1:
        names = ["".join(each).rstrip("./") for each in equal]
        raise CheckpointError(
            f"the file has several sets of weights, {listing(names, 4)}; append the name of one: FILE:{names[0][:80]}"
        )
    return ranked[0]


def _rank(copy: tuple[str, str]) -> tuple[int, int]:
    parts = _parts("".join(copy))
    ranks = [WRAPPERS.index("ema") if AVERAGED.fullmatch(part) else _rank_of(part) for part in parts]
    known = [rank for rank in ranks if rank is not None]
    unknown = any(rank is None and part not in PLAIN for rank, part in zip(ranks, parts, strict=True))
    return min(known, default=WRAPPERS.index("an unknown name") if unknown else -1), len(parts)


def _rank_of(part: str) -> int | None:
    return WRAPPERS.index(part) if part in WRAPPERS else None


def _is_counter(key: str, info: Info) -> bool:
    return not info.shape and not info.dtype.is_floating_point and not COUNTER.fullmatch(key)


def _not_model(name: Name, info: Info, root: str, ignored: Sequence[tuple[str, ...]]) -> str | None:
    """Returns a description if a tensor is outside the model and cannot affect the output, otherwise None."""
    path = name.original if name.root != root else name.key
    part = (_parts(path) or [path])[0]
    if TEXT_TOWER.fullmatch(path) or _is_training(path):
        return f"{part} (not model weights)"
    if reason := next((why for pattern, why, *_ in ignored if re.fullmatch(pattern, name.key)), None):
        return reason
    scale = SCALES.fullmatch(name.key.rpartition(".")[2])
    if not info.dtype.is_floating_point or (len(info.shape) < 1 and not scale):
        return f"{part} (not model weights)"
    return None


def _linear(names: Iterable[Name], tensors: Tensors) -> dict[str, Name]:
    """Returns the weight and bias if these names belong to one linear layer, otherwise {}."""
    found: dict[str, Name] = {}
    stems: set[str] = set()
    for name in names:
        match = LAYER.fullmatch(name.root + name.key)
        if match is None or match[2] in found:
            return {}
        stems.add(match[1])
        found[match[2]] = name
    if len(stems) != 1 or set(found) != {"weight", "bias"}:
        return {}
    weight, bias = (tensors.infos[found[leaf].original].shape for leaf in ("weight", "bias"))
    return found if len(weight) == 2 and bias == weight[:1] else {}


def _unchunked(names: dict[str, str]) -> dict[str, str]:
    """Removes the chunk index from DINOv2's names `blocks.CHUNK.BLOCK.` if all blocks are in chunks."""
    matches = {key: CHUNK.fullmatch(key) for key in names}
    chunked = {key: match for key, match in matches.items() if match}
    if not chunked or any(re.match(r"(.*\.)?blocks\.\d+\.", key) for key in names if key not in chunked):
        return names
    positions = sorted({(int(match[2]), int(match[3])) for match in chunked.values()})
    blocks = [block for _, block in positions]
    # DINOv2 fills the start of each chunk with identities, so that a block has its own number in it.
    own = len(set(blocks)) == len(blocks)
    numbers = {position: position[1] if own else index for index, position in enumerate(positions)}

    def rename(key: str) -> str:
        match = chunked.get(key)
        return f"{match[1]}.{numbers[int(match[2]), int(match[3])]}.{match[4]}" if match else key

    return {rename(key): original for key, original in names.items()}
