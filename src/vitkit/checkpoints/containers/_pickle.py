"""Parses pickles (protocols 0 to 5) without importing any class or calling any function.

Dicts and instances of any class become `Object`s, classes and functions become `Global`s. The number of operations is
limited, so that a small file cannot take much time or memory.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError

MAX_OPERATIONS = 500_000
MAX_DIGITS = 4000
# Functions of files that attack the reader. None is ever called: the list is for the error message only.
ATTACKS = re.compile(
    r"(os|posix|nt|subprocess|pty|runpy|webbrowser|ctypes|commands|shutil|importlib|code|pip)\..*"
    r"|(__builtin__|builtins)\.(eval|exec|compile|open|__import__|apply|execfile|input|breakpoint)|_?io\.open"
)

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function in a pickle, `module.name`."""

    name: str


@dataclass(slots=True, eq=False)
class Object:
    """A dict or a class instance in a pickle, with its constructor arguments, state and items."""

    name: str
    arguments: Any = ()
    state: Any = None
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


#: Gives the value of a call `name(*arguments)` of the pickle, or None for an `Object`.
Rebuild = Callable[[str, tuple[Any, ...]], Any]
#: Gives the value of a persistent id.
Persistent = Callable[[Any], Any]


def parse_pickle(data: Buffer, position: int, rebuild: Rebuild, persistent: Persistent) -> tuple[Any, int]:
    """Returns the value of the pickle that starts at `position`, and the position after the pickle.

    Raises CheckpointError for an invalid pickle, and for one that would call a function that runs code.
    """
    parser = _Parser(memoryview(data), position, rebuild, persistent)
    try:
        return parser.parse(), parser.position
    except (IndexError, KeyError, struct.error, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            "the pickle in the file is truncated or damaged; download or copy the file again"
        ) from None


class _Parser:
    """Stack machine that parses a pickle without creating instances of the pickled classes."""

    def __init__(self, data: memoryview, position: int, rebuild: Rebuild, persistent: Persistent):
        self.data, self.position = data, position
        self.rebuild, self.persistent = rebuild, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def parse(self) -> Any:
        """Executes the opcodes of the pickle up to STOP and returns the value on top of the stack."""
        for _ in range(MAX_OPERATIONS):
            code = self.data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            OPERATIONS[code](self)
        raise CheckpointError(
            f"the pickle in the file has more than {MAX_OPERATIONS:,} operations; save only the state_dict"
        )

    def take(self, count: int) -> memoryview:
        """Returns the next `count` bytes of the pickle."""
        end = self.position + count
        if end > len(self.data):
            raise IndexError
        taken, self.position = self.data[self.position : end], end
        return taken

    def number(self, layout: str) -> Any:
        """Reads a number in the given `struct` format."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Reads the text up to the next line break."""
        for end in range(self.position, min(self.position + 100_000, len(self.data))):
            if self.data[end] == 0x0A:
                text = str(self.data[self.position : end], "utf-8", "backslashreplace")
                self.position = end + 1
                return text
        raise IndexError

    def push(self, value: Any) -> None:
        """Pushes a value onto the stack."""
        self.stack.append(value)

    def text(self, layout: str) -> None:
        """Reads the length of a UTF-8 string and pushes the string."""
        self.push(str(self.take(self.number(layout)), "utf-8", "backslashreplace"))

    def raw(self, layout: str) -> None:
        """Reads the length of a bytes object and pushes the bytes."""
        self.push(bytes(self.take(self.number(layout))))

    def old_string(self, layout: str) -> None:
        """Reads the length of a Python 2 byte string and pushes the string."""
        self.push(str(self.take(self.number(layout)), "latin1"))

    def mark(self) -> None:
        """Pushes a mark. `marked` later returns the values above the last mark."""
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Removes the last mark and returns the values above it."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple_of(self, count: int) -> None:
        """Replaces the top values of the stack with a tuple of these values."""
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError
        self.stack[-count:] = [items]

    def dict_of_marked(self) -> None:
        """Pushes a dict of the keys and values above the mark."""
        items = self.marked()
        self.push(Object("dict", pairs=list(zip(items[::2], items[1::2], strict=True))))

    def set_items(self, items: list[Any]) -> None:
        """Adds items, which are alternating keys and values, to the dict on top of the stack."""
        pairs = list(zip(items[::2], items[1::2], strict=True))
        if isinstance(self.stack[-1], Object):
            self.stack[-1].pairs.extend(pairs)

    def set_item(self) -> None:
        """Adds the key and value on top of the stack to the dict below them."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        """Adds items to the list on top of the stack."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def append_one(self) -> None:
        """Adds the value on top of the stack to the list below it."""
        self.append([self.stack.pop()])

    def pop(self) -> None:
        """Removes the value or the mark on top of the stack."""
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def put(self, index: int) -> None:
        """Stores the value on top of the stack in the memo."""
        self.memo[index] = self.stack[-1]

    def named(self) -> None:
        """Pushes the global whose module and name are on top of the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError
        self.push(Global(f"{module}.{name}"))

    def global_of_lines(self) -> None:
        """Pushes the global whose module and name are the next two lines of text."""
        module = self.line()
        self.push(Global(f"{module}.{self.line()}"))

    def call(self, function: Any, arguments: Any) -> None:
        """Pushes an object that represents a function call. The function is not called."""
        name = function.name if isinstance(function, Global) else "an object"
        if ATTACKS.fullmatch(name):
            raise CheckpointError(
                f"unpickling the file would call {name[:60]}, which can run code; vitkit did not call it; "
                "do not trust this file"
            )
        values = arguments if isinstance(arguments, tuple) else ()
        made = self.rebuild(name, values)
        self.push(Object(name, values) if made is None else made)

    def reduce(self) -> None:
        """Records a call of the function on the stack, with the tuple above it as arguments."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def reduce_with_keywords(self) -> None:
        """Records a call of the function on the stack, like `reduce`, and ignores the keyword arguments."""
        self.stack.pop()
        self.reduce()

    def instance_of_marked(self) -> None:
        """Records a call of the first value above the mark, with the values after it as arguments."""
        function, *arguments = self.marked()
        self.call(function, tuple(arguments))

    def instance_of_lines(self) -> None:
        """Records a call of the global named by the next two lines, with the values above the mark as arguments."""
        module = self.line()
        self.call(Global(f"{module}.{self.line()}"), tuple(self.marked()))

    def build(self) -> None:
        """Stores the value on top of the stack as the state of the object below it."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Object):
            self.stack[-1].state = state

    def persistent_of_stack(self) -> None:
        """Replaces the persistent id on the stack with the object that it identifies."""
        self.push(self.persistent(self.stack.pop()))

    def persistent_of_line(self) -> None:
        """Pushes the object that the persistent id in the next line of text identifies."""
        self.push(self.persistent(self.line()))

    def long(self, layout: str) -> None:
        """Reads the length of a signed integer and pushes the integer."""
        self.push(int.from_bytes(self.take(self.number(layout)), "little", signed=True))

    def integer_of_line(self) -> None:
        """Pushes the integer or boolean in the next line of text."""
        line = self.line().removesuffix("L")
        if len(line) > MAX_DIGITS:
            raise ValueError
        self.push({"00": False, "01": True}[line] if line in ("00", "01") else int(line))


def _extension(parser: _Parser) -> None:
    raise CheckpointError(
        "the pickle in the file uses extension codes or out-of-band buffers, which are not supported; "
        "save the state_dict with torch.save"
    )


OPERATIONS: dict[int, Callable[[_Parser], Any]] = {
    0x80: lambda p: p.take(1),  # PROTO
    0x95: lambda p: p.take(8),  # FRAME
    ord("N"): lambda p: p.push(None),
    0x88: lambda p: p.push(True),
    0x89: lambda p: p.push(False),
    ord("K"): lambda p: p.push(p.number("<B")),
    ord("M"): lambda p: p.push(p.number("<H")),
    ord("J"): lambda p: p.push(p.number("<i")),
    ord("G"): lambda p: p.push(p.number(">d")),
    ord("I"): _Parser.integer_of_line,
    ord("L"): _Parser.integer_of_line,
    ord("F"): lambda p: p.push(float(p.line())),
    0x8A: lambda p: p.long("<B"),
    0x8B: lambda p: p.long("<I"),
    ord("S"): lambda p: p.push(p.line()[1:-1]),
    ord("V"): lambda p: p.push(p.line()),
    ord("U"): lambda p: p.old_string("<B"),
    ord("T"): lambda p: p.old_string("<I"),
    ord("X"): lambda p: p.text("<I"),
    0x8C: lambda p: p.text("<B"),
    0x8D: lambda p: p.text("<Q"),
    ord("B"): lambda p: p.raw("<I"),
    ord("C"): lambda p: p.raw("<B"),
    0x8E: lambda p: p.raw("<Q"),
    0x96: lambda p: p.raw("<Q"),
    ord("("): _Parser.mark,
    ord("0"): _Parser.pop,
    ord("1"): _Parser.marked,
    ord("2"): lambda p: p.push(p.stack[-1]),
    ord(")"): lambda p: p.push(()),
    0x85: lambda p: p.tuple_of(1),
    0x86: lambda p: p.tuple_of(2),
    0x87: lambda p: p.tuple_of(3),
    ord("t"): lambda p: p.push(tuple(p.marked())),
    ord("]"): lambda p: p.push([]),
    ord("l"): lambda p: p.push(list(p.marked())),
    0x8F: lambda p: p.push([]),  # EMPTY_SET
    0x90: lambda p: p.append(p.marked()),  # ADDITEMS
    0x91: lambda p: p.push(list(p.marked())),  # FROZENSET
    ord("a"): _Parser.append_one,
    ord("e"): lambda p: p.append(p.marked()),
    ord("}"): lambda p: p.push(Object("dict")),
    ord("d"): _Parser.dict_of_marked,
    ord("s"): _Parser.set_item,
    ord("u"): lambda p: p.set_items(p.marked()),
    ord("p"): lambda p: p.put(int(p.line()[:20])),
    ord("q"): lambda p: p.put(p.number("<B")),
    ord("r"): lambda p: p.put(p.number("<I")),
    0x94: lambda p: p.put(len(p.memo)),
    ord("g"): lambda p: p.push(p.memo[int(p.line()[:20])]),
    ord("h"): lambda p: p.push(p.memo[p.number("<B")]),
    ord("j"): lambda p: p.push(p.memo[p.number("<I")]),
    ord("c"): _Parser.global_of_lines,
    0x93: _Parser.named,
    ord("R"): _Parser.reduce,
    0x81: _Parser.reduce,  # NEWOBJ
    0x92: _Parser.reduce_with_keywords,  # NEWOBJ_EX
    ord("o"): _Parser.instance_of_marked,
    ord("i"): _Parser.instance_of_lines,
    ord("b"): _Parser.build,
    ord("P"): _Parser.persistent_of_line,
    ord("Q"): _Parser.persistent_of_stack,
    **dict.fromkeys((0x82, 0x83, 0x84, 0x97, 0x98), _extension),
}
