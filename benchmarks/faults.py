"""Seeded faults: small changes of the simulator's code that its tests should notice.

A fault replaces one piece of a function's text: another sign, a number that is off by one, a maximum or a statement
that is lost, two arguments or fields in the wrong order. Text that computes nothing (documentation, types, messages,
layouts of records, hints to compilers) is left alone. ``draw`` takes one function after the other in an order that
depends on the seed and each function's own text alone, so that a change elsewhere does not change what is drawn.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTIONAL = ("functional.py", "memories.py", "kernels")
#: The reference machine judges; settings are read from the environment, and compute nothing.
NOT = ("reference", "settings.py", "__init__.py")


@dataclass(frozen=True)
class Mutant:
    """A fault in a file: ``new`` for the bytes ``begin`` to ``end``; ``before`` and ``after`` are its lines, as one."""

    file: str
    function: str
    line: int
    kind: str
    before: str
    after: str
    turn: int  # among faults of the function that read alike
    begin: int
    end: int
    new: str

    @property
    def id(self) -> str:
        """A name that holds while the function does not change there."""
        return digest(self.file, self.function, self.before, self.after, self.turn)[:10]

    def apply(self, source: str) -> str:
        """The file's text with the fault."""
        data = source.encode()
        return (data[: self.begin] + self.new.encode() + data[self.end :]).decode()


def digest(*parts: object) -> str:
    """A number in hexadecimal that depends on the parts alone."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def sources(root: Path) -> dict[str, list[str]]:
    """The files with timing and with functional code, as paths below ``root``."""
    simulator = root / "ommatid" / "simulator"
    files = [p for p in sorted(simulator.glob("**/*.py")) if not set(NOT) & set(p.parts)]
    functional = [p for p in files if p.relative_to(simulator).parts[0] in FUNCTIONAL]
    timing = [*(p for p in files if p not in functional), root / "ommatid" / "isa" / "cost.py"]
    return {
        "timing": [p.relative_to(root).as_posix() for p in timing],
        "functional": [p.relative_to(root).as_posix() for p in functional],
    }


def draw(root: Path, files: Iterable[str], seed: int) -> Iterator[Mutant]:
    """One fault of each function, then a second of each, and so on; of the kinds of faults one after the other."""
    functions: defaultdict[tuple[str, str], list[Mutant]] = defaultdict(list)
    texts = {file: (root / file).read_text(encoding="utf-8") for file in files}
    for file, text in texts.items():
        for mutant in mutants(file, text):
            functions[mutant.file, mutant.function].append(mutant)
    order = sorted(functions, key=lambda name: digest(seed, *name))
    ordered = [(m for m in _shuffled(functions[name], seed) if differs(texts[m.file], m)) for name in order]
    for turn in itertools.zip_longest(*ordered):
        yield from (mutant for mutant in turn if mutant)


def _shuffled(found: list[Mutant], seed: int) -> list[Mutant]:
    kinds: defaultdict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(found, key=lambda m: digest(seed, m.id)):
        kinds[mutant.kind].append(mutant)
    order = sorted(kinds, key=lambda kind: digest(seed, found[0].file, found[0].function, kind))
    return [m for turn in itertools.zip_longest(*(kinds[kind] for kind in order)) for m in turn if m]


def mutants(file: str, source: str) -> list[Mutant]:
    """All faults of a file."""
    text, found, turns = Text(source), [], defaultdict[tuple[str, str, str], int](int)
    for function, node in _code(ast.parse(source)):
        for kind, rule in RULES.items():
            for begin, end, new in rule(text, node):
                before, after = text.lines(begin, end), text.lines(begin, end, new)
                turn = turns[function, before, after]
                turns[function, before, after] += 1
                found.append(Mutant(file, function, node.lineno, kind, before, after, turn, begin, end, new))
    return found


def differs(source: str, mutant: Mutant) -> bool:
    """Whether the fault parses, as something else."""
    try:
        return _meaning(mutant.apply(source)) != _meaning(source)
    except SyntaxError:
        return False


@functools.lru_cache(2)
def _meaning(source: str) -> str:
    return ast.dump(ast.parse(source))


class Text:
    """A source, addressed in bytes as the syntax tree does."""

    def __init__(self, source: str) -> None:
        self.data = source.encode()
        self.starts = [0, *itertools.accumulate(len(line) for line in self.data.splitlines(keepends=True))]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The bytes of a node."""
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        begin, end = self.span(node)
        return self.data[begin:end].decode()

    def between(self, a: ast.AST, b: ast.AST) -> tuple[int, int, str]:
        """The text after one node and before another, and where it is."""
        begin, end = self.span(a)[1], self.span(b)[0]
        return begin, end, self.data[begin:end].decode()

    def lines(self, begin: int, end: int, new: str | None = None) -> str:
        """The lines of a place, as one; with other text there."""
        first, last = self.data.rfind(b"\n", 0, begin) + 1, self.data.find(b"\n", end)
        middle = self.data[begin:end] if new is None else new.encode()
        whole = self.data[first:begin] + middle + self.data[end : last if last >= 0 else None]
        return " ".join(whole.decode().split())


#: Calls and options that do not compute: layouts, types, and what tells a compiler or the system how, not what.
SILENT = {"dtype", "namedtuple", "field", "TypeError", "print", "FunctionType"}
HINTS = {
    "likely",
    "align",
    "cache",
    "inline",
    "nogil",
    "daemon",
    "no_cpython_wrapper",
    "no_cfunc_wrapper",
    "strict",
}


def _code(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """(function, node) of all nodes that compute; code outside functions counts as one function."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        if _silent(node):
            return
        inner = name
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}" if name else node.name
        elif not isinstance(node, ast.Module):
            yield name or "(module)", node
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "args" if inner != name else ""):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, inner)

    return walk(tree, "")


def _silent(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _name(node.func) in SILENT
    if isinstance(node, ast.keyword):
        return node.arg in HINTS
    if isinstance(node, ast.If):
        return "__name__" in ast.dump(node.test)
    if isinstance(node, ast.Expr):  # documentation
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.JoinedStr)


def _name(function: ast.AST) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


Change = tuple[int, int, str]  # the bytes that are replaced, by what

SIGNS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"), ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"), ast.BitXor: ("^", "&"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
}  # fmt: skip
OPPOSITE = {
    "min": "max", "minimum": "maximum", "least": "most", "argmin": "argmax", "ceil": "floor", "any": "all",
    "logical_and": "logical_or", "zeros": "ones", "add": "sub", "udiv": "urem", "sext": "zext",
}  # fmt: skip
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}
SYMMETRIC = {"min", "max", "minimum", "maximum", "add", "mul", "and_"}
#: Names of what is no number: swapping it with another argument would not run at all.
HANDLES = {
    "r", "target", "builder", "context", "path", "job", "s", "f", "work", "links", "stream", "state", "array", "kind",
    "sram", "acc", "chip", "pointer", "element", "codegen", "signature", "place", "sig", "array_type", "program",
}  # fmt: skip
#: Parts of a field's name that are mistaken for each other.
FIELDS = (("src", "dst"), ("_h", "_w"), ("row", "pixel"), ("top", "left"), ("kh", "kw"), ("s1", "s2"), ("n1", "n2"))  # fmt: skip


def _other_sign(text: Text, node: ast.AST) -> Iterator[Change]:
    """+ for -, < for <=, ..."""
    if isinstance(node, ast.BinOp):
        pairs = [(node.left, node.op, node.right)]
    elif isinstance(node, ast.Compare):
        pairs = list(zip([node.left, *node.comparators], node.ops, node.comparators, strict=False))
    elif isinstance(node, ast.AugAssign):
        pairs = [(node.target, node.op, node.value)]
    else:
        return
    for left, sign, right in pairs:
        if type(sign) in SIGNS:
            begin, end, between = text.between(left, right)
            yield begin, end, between.replace(*SIGNS[type(sign)], 1)


def _off_by_one(text: Text, node: ast.AST) -> Iterator[Change]:
    """A number that is one more or less; a truth that is none."""
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield *text.span(node), str(not node.value)
    elif isinstance(node.value, int | float):
        yield *text.span(node), repr(node.value + 1)
        if node.value > 0 and isinstance(node.value, int):
            yield *text.span(node), repr(node.value - 1)


def _opposite(text: Text, node: ast.AST) -> Iterator[Change]:
    """A minimum for a maximum, down for up."""
    if isinstance(node, ast.Call) and _name(node.func) in OPPOSITE:
        name = _name(node.func)
        begin, end = text.span(node.func)
        yield end - len(name), end, OPPOSITE[name]
    if isinstance(node, ast.BoolOp):
        for left, right in itertools.pairwise(node.values):
            begin, end, between = text.between(left, right)
            one, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield begin, end, between.replace(one, other, 1)


def _lost(text: Text, node: ast.AST) -> Iterator[Change]:
    """A bound, a rounding, a condition or a sign that is left out."""
    if (
        isinstance(node, ast.Call)
        and len(node.args) == 2
        and _name(node.func) in ("min", "max", "minimum", "maximum")
    ):
        yield from ((*text.span(node), f"({text.of(arg)})") for arg in node.args)
    if isinstance(node, ast.Call) and len(node.args) == 1 and _name(node.func) in ("ceil", "rint", "abs"):
        yield *text.span(node), f"({text.of(node.args[0])})"
    if isinstance(node, ast.Call) and _name(node.func) == "_ceil":
        yield *text.span(node), f"({text.of(node.args[0])}) // ({text.of(node.args[1])})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield *text.span(node), text.of(node.operand)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = node.operand
        rounds_up = isinstance(inner, ast.BinOp) and isinstance(inner.left, ast.UnaryOp)
        yield *text.span(node), text.of(node).replace("-", "", 2 if rounds_up else 1)
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            rest = [text.of(v) for v in node.values if v is not value]
            yield *text.span(node), (" and " if isinstance(node.op, ast.And) else " or ").join(rest)


def _lost_statement(text: Text, node: ast.AST) -> Iterator[Change]:
    """A statement that is left out."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Continue | ast.Break) or isinstance(
        target, ast.Attribute | ast.Subscript
    ):
        yield *text.span(node), "pass"


def _other_branch(text: Text, node: ast.AST) -> Iterator[Change]:
    """A condition that holds where it should not."""
    if isinstance(node, ast.If | ast.IfExp):
        yield *text.span(node.test), f"not ({text.of(node.test)})"


def _swapped(text: Text, node: ast.AST) -> Iterator[Change]:
    """Two arguments, operands or members that follow one another, in the wrong order."""
    pairs: list[tuple[ast.AST, ast.AST]] = []
    if isinstance(node, ast.Call) and _name(node.func) not in SYMMETRIC:
        pairs = [pair for pair in itertools.pairwise(node.args) if _alike(*pair)]
    elif isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
        pairs = [pair for pair in itertools.pairwise(node.elts) if _alike(*pair)]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.FloorDiv | ast.Mod | ast.LShift):
        pairs = [(node.left, node.right)]
    for a, b in pairs:
        _, _, between = text.between(a, b)
        if text.of(a) != text.of(b):
            yield text.span(a)[0], text.span(b)[1], text.of(b) + between + text.of(a)


def _alike(a: ast.AST, b: ast.AST) -> bool:
    """Whether two expressions may well have one type, so that nothing but the result tells their order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ast.Constant) and isinstance(b, ast.Constant):
        return type(a.value) is type(b.value)
    if isinstance(a, ast.Attribute | ast.Subscript) and isinstance(b, ast.Attribute | ast.Subscript):
        return ast.dump(a.value) == ast.dump(b.value) and _name(a.value) not in ("types", "np", "ir")
    if isinstance(a, ast.Name) and isinstance(b, ast.Name):
        return not {a.id, b.id} & HANDLES
    if isinstance(a, ast.Call) and isinstance(b, ast.Call):
        return ast.dump(a.func) == ast.dump(b.func)
    return isinstance(a, ast.BinOp)


def _other_field(text: Text, node: ast.AST) -> Iterator[Change]:
    """The field beside the one that is meant, if the file has it."""
    if isinstance(node, ast.Attribute):
        name, end = node.attr, text.span(node)[1]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        name, end = node.value, text.span(node)[1] - 1
    else:
        return
    swapped = {name.replace(a, b) for pair in FIELDS for a, b in (pair, pair[::-1]) if a in name}
    swapped |= {{"h": "w", "w": "h"}.get(name, name)}
    for other in sorted(swapped - {name}):
        if any(
            mark + other.encode() + tail in text.data
            for mark in (b".", b'"')
            for tail in (b'"', b")", b" ", b",")
        ):
            yield end - len(name.encode()), end, other


RULES: dict[str, Callable[[Text, ast.AST], Iterator[Change]]] = {
    "another sign": _other_sign,
    "off by one": _off_by_one,
    "the opposite": _opposite,
    "lost": _lost,
    "lost statement": _lost_statement,
    "the other branch": _other_branch,
    "swapped": _swapped,
    "another field": _other_field,
}
