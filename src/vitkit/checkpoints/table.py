"""Tables that map tensor names of a format to vitkit's names and back, and transform the tensors.

Each format and family has one table, used for reading and writing. In patterns, `{i}` and `{j}` are numbers, `{i+1}`
and `{j+1}` the same numbers counted from 1 (`{j+1:02}`: with two digits), `{leaf}` is `weight` or `bias`, `{norm}` a
parameter or buffer of a batch norm, and `{name}` any name.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.tensors import Shape, Tensors

# Names of the step counters of batch norms, which are integers. Files of torch before 0.4.1 do not have them.
COUNTER = re.compile(r"(.*\.)?num_batches_tracked")
# Numbers have at most five digits, which bounds the cost of matching untrusted names.
PLACEHOLDERS = {
    "{i}": r"(?P<i>0|[1-9]\d{0,4})",
    "{j}": r"(?P<j>0|[1-9]\d{0,4})",
    "{i+1}": r"(?P<i_from_1>[1-9]\d{0,4})",
    "{j+1}": r"(?P<j_from_1>[1-9]\d{0,4})",
    "{j+1:02}": r"(?P<j_from_1>0[1-9]|[1-9]\d{1,4})",
    "{leaf}": r"(?P<leaf>weight|bias)",
    "{norm}": r"(?P<norm>weight|bias|running_mean|running_var|num_batches_tracked)",
    "{name}": r"(?P<name>.+)",
}


@dataclass(frozen=True)
class Transform:
    """Converts tensors of a format to one vitkit tensor (`load`), and back (`save(tensor, num_heads)`)."""

    load: Callable[[Sequence[Tensor]], Tensor]
    save: Callable[[Tensor, int], Sequence[Tensor]]


SAME = Transform(lambda parts: parts[0], lambda ours, heads: [ours])
TRANSPOSED = Transform(lambda parts: parts[0].t(), lambda ours, heads: [ours.t()])
# JAX stores convolution kernels as (height, width, in, out).
CONVOLUTION = Transform(
    lambda parts: rearrange(parts[0], "r c i o -> o i r c"), lambda ours, heads: [rearrange(ours, "o i r c -> r c i o")]
)
# Query, key and value concatenated along the output axis.
FUSED3 = Transform(lambda parts: torch.cat(list(parts)), lambda ours, heads: ours.chunk(3))
# JAX attention has a head axis: kernels (d, h, k) for the input projections, (h, k, d) for the output projection.
_IN = "d h k -> (h k) d"
_SPLIT = "(h k) d -> d h k"


def _load_heads(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([rearrange(part, _IN) for part in parts])


def _load_head_biases(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([rearrange(part, "h k -> (h k)") for part in parts])


def heads_in(parts: int) -> Transform:
    """Returns the transform that fuses `parts` attention input projections of JAX into one vitkit tensor."""
    return Transform(_load_heads, lambda ours, heads: [rearrange(each, _SPLIT, h=heads) for each in ours.chunk(parts)])


def head_biases(parts: int) -> Transform:
    """Returns the transform for the biases of the attention input projections (see `heads_in`)."""
    return Transform(
        _load_head_biases,
        lambda ours, heads: [rearrange(each, "(h k) -> h k", h=heads) for each in ours.chunk(parts)],
    )


HEADS_OUT = Transform(
    lambda parts: rearrange(parts[0], "h k d -> d (h k)"),
    lambda ours, heads: [rearrange(ours, "d (h k) -> h k d", h=heads)],
)


@dataclass(frozen=True)
class Rule:
    """Rule for tensor names: a pattern of vitkit names, the format's patterns for the same tensor, and a transform."""

    ours: str
    theirs: tuple[str, ...]
    transform: Transform = SAME

    @cached_property
    def our_regex(self) -> re.Pattern[str]:
        """The regular expression that matches vitkit's names."""
        return _regex(self.ours)

    @cached_property
    def their_regexes(self) -> tuple[re.Pattern[str], ...]:
        """The regular expressions that match the format's names, one for each tensor that is fused."""
        return tuple(map(_regex, self.theirs))

    def names(self, match: re.Match[str]) -> list[str]:
        """Returns the format's tensor names, with the placeholders filled from a match of a regular expression."""
        return [_filled(pattern, match) for pattern in self.theirs]


@dataclass(frozen=True)
class Step:
    """The name of a vitkit tensor, the names of the format's tensors that it is made from, and the transform."""

    ours: str
    theirs: list[str]
    transform: Transform


@dataclass(frozen=True)
class Table:
    """The rules of one format for the tensor names of one model family."""

    rules: tuple[Rule, ...]

    def matches(self, name: str) -> bool:
        """Returns whether a rule of the table matches a tensor name of the format."""
        return any(regex.fullmatch(name) for rule in self.rules for regex in rule.their_regexes)

    def step(self, ours: str) -> Step | None:
        """Returns how a vitkit tensor is made from the format's tensors, or None if no rule matches its name."""
        for rule in self.rules:
            if match := rule.our_regex.fullmatch(ours):
                return Step(ours, rule.names(match), rule.transform)
        return None

    def shapes(self, tensors: Tensors) -> dict[str, Shape]:
        """Returns the shapes of the vitkit tensors that can be made from the file, by name. No values are read."""
        shapes: dict[str, Shape] = {}
        for rule in self.rules:
            for name in tensors.infos:
                match = rule.their_regexes[0].fullmatch(name)
                parts = rule.names(match) if match else []
                if match and all(part in tensors.infos for part in parts):
                    shape = _loaded_shape(rule.transform, [tensors.infos[part].shape for part in parts])
                    if shape is not None:
                        shapes.setdefault(_filled(rule.ours, match), shape)
        return shapes

    def plan(self, expected: Mapping[str, Shape], tensors: Tensors, num_heads: int) -> list[Step]:
        """Returns one step per vitkit tensor, after validating the names, shapes and dtypes in the file.

        A batch norm's counter (`COUNTER`) that is not in the file has no step. Raises CheckpointError that lists
        every tensor that is missing, unknown, of another shape or not floating-point.
        """
        steps = [self.step(name) for name in expected]
        unmapped = [name for name, step in zip(expected, steps, strict=True) if step is None]
        if unmapped:
            raise CheckpointError(f"this format has no names for the tensors {listing(unmapped)}")
        plan = [
            step
            for step in steps
            if step is not None and not (COUNTER.fullmatch(step.ours) and step.theirs[0] not in tensors.infos)
        ]
        wanted = {
            name: tuple(shape)
            for step in plan
            for name, shape in zip(step.theirs, _saved_shapes(step, expected[step.ours], num_heads), strict=True)
        }
        problems = list(_problems(wanted, tensors))
        if problems:
            raise CheckpointError("; ".join(problems))
        return plan

    def saved(self, state: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
        """Converts a state dict to the format. Raises CheckpointError if no rule matches a tensor name."""
        result: dict[str, Tensor] = {}
        for name, tensor in state.items():
            step = self.step(name)
            if step is None:
                raise CheckpointError(f"this format has no name for the tensor {name}")
            parts = step.transform.save(tensor.detach(), num_heads)
            result.update(zip(step.theirs, (part.contiguous() for part in parts), strict=True))
        return result

    def loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Converts tensors of the format to a state dict, which may be incomplete.

        Raises CheckpointError for an unknown name and for a fused tensor of which a part is missing.
        """
        result: dict[str, Tensor] = {}
        for name in tensors:
            rule, match = self._match(name)
            parts = rule.names(match)
            if missing := [part for part in parts if part not in tensors]:
                raise CheckpointError(
                    f"converting the tensor {name} also needs {listing(missing)}, which the file lacks"
                )
            ours = _filled(rule.ours, match)
            if ours not in result:
                result[ours] = rule.transform.load([tensors[part] for part in parts]).contiguous()
        return result

    def _match(self, name: str) -> tuple[Rule, re.Match[str]]:
        for rule in self.rules:
            for regex in rule.their_regexes:
                if match := regex.fullmatch(name):
                    return rule, match
        raise CheckpointError(f"this format has no tensor named {name}")


def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}").replace(r"\+", "+")
    for placeholder, regex in PLACEHOLDERS.items():
        text = text.replace(placeholder, regex)
    return re.compile(text)


def _filled(pattern: str, match: re.Match[str]) -> str:
    """Returns a pattern with its placeholders filled from the match of another pattern."""
    groups = match.groupdict()
    for letter in "ij":
        if f"{letter}_from_1" in groups:
            groups[letter] = str(int(groups[f"{letter}_from_1"]) - 1)
        if letter in groups:
            number = int(groups[letter]) + 1
            pattern = pattern.replace(f"{{{letter}+1}}", str(number)).replace(f"{{{letter}+1:02}}", f"{number:02}")
    return pattern.format(**groups)


def _loaded_shape(transform: Transform, shapes: list[Shape]) -> Shape | None:
    try:
        return tuple(transform.load([torch.empty(shape, device="meta") for shape in shapes]).shape)
    except (RuntimeError, ValueError):
        return None  # wrong shape for the transform; `plan` reports it with both shapes


def _saved_shapes(step: Step, shape: Shape, num_heads: int) -> list[Shape]:
    return [tuple(part.shape) for part in step.transform.save(torch.empty(shape, device="meta"), num_heads)]


def _problems(wanted: Mapping[str, Shape], tensors: Tensors) -> Iterable[str]:
    if missing := [name for name in wanted if name not in tensors.infos]:
        yield f"{_count(missing)} missing: {listing(missing)}"
    if extra := [name for name in tensors.infos if name not in wanted]:
        yield f"{_count(extra)} unknown: {listing(extra)}"
    present = [(name, shape, tensors.infos[name]) for name, shape in wanted.items() if name in tensors.infos]
    differing = [each for each in present if each[2].shape != each[1]]
    if other := [f"{name} has shape {info.shape}, expected {shape}" for name, shape, info in differing]:
        yield f"{_count(other)} of the wrong shape: {listing(other)}"
    if unreadable := [f"{name} is {info.problem}" for name, _, info in present if info.problem]:
        yield f"{_count(unreadable)} not readable: {listing(unreadable)}"
    floats = [(name, info.dtype) for name, _, info in present if not COUNTER.fullmatch(name)]
    if integers := [f"{name} has dtype {dtype}" for name, dtype in floats if not dtype.is_floating_point]:
        yield f"{_count(integers)} not floating-point: {listing(integers)}"


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
