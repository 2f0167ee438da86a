"""Mutations of Python source: one changed operator, condition, number, return or statement each.

Texts, annotations and decorators are not mutated. `|` is left alone, because it merges dicts and
joins types here: every mutant of it would fail at once.
"""

import ast
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPPOSITES = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitXor: ast.BitOr, ast.Pow: ast.Mult,
}  # fmt: skip


class Mutation(NamedTuple):
    """A change: the text between two offsets (in bytes of the file) becomes another."""

    line: int
    last_line: int
    start: int
    end: int
    before: str
    after: str

    def apply(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def find_mutations(source: bytes) -> Iterator[Mutation]:
    """Yield every mutation of a module."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _nodes(ast.parse(source)):
        for target, mutant in _mutants(node):
            start = starts[target.lineno - 1] + target.col_offset
            end = starts[(target.end_lineno or 0) - 1] + (target.end_col_offset or 0)
            text = ast.unparse(mutant)
            after = f"({text})" if isinstance(target, ast.expr) else text
            lines = target.lineno, target.end_lineno or 0
            yield Mutation(*lines, start, end, source[start:end].decode(), after)


def _nodes(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield the expressions and statements, without annotations and docstrings."""
    pending: list[ast.AST] = [tree]
    for node in pending:
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "values") and (
                name != "values" or isinstance(node, ast.JoinedStr)
            ):
                continue
            children = value if isinstance(value, list) else [value]
            pending += [child for child in children if isinstance(child, ast.AST)]


def _mutants(node: ast.expr | ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Yield the mutants of a node, each with the node that it replaces."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not isinstance(test, ast.Compare | ast.UnaryOp):  # these have mutants of their own
                yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Compare(ops=[operator, *rest]):
            for table in (COMPARISONS, OPPOSITES):
                if type(operator) in table:
                    yield node, _changed(node, ops=[table[type(operator)](), *rest])
        case ast.BoolOp(op=operator):
            yield node, _changed(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not _is_text(node):
            yield node, _changed(node, op=OPERATORS[type(operator)]())
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield node, _changed(node, op=OPERATORS[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, operand
        case ast.Constant(value=bool() as flag):
            yield node, ast.Constant(not flag)
        case ast.Constant(value=int() | float() as number) if number + 1 != number:
            yield node, ast.Constant(number + 1)
        case ast.Return(value=value) if value and not _is_none(value):
            yield node, ast.Return(ast.Constant(None))
        case ast.Break():
            yield node, ast.Continue()
        case ast.Continue():
            yield node, ast.Break()
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield node, ast.Pass()


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with other fields."""
    mutant = deepcopy(node)
    for name, value in fields.items():
        setattr(mutant, name, value)
    return mutant


def _is_text(node: ast.BinOp) -> bool:
    """Return whether an operand is a text, which `+` joins and `%` formats."""
    texts = (str, bytes)
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, texts))
        for side in (node.left, node.right)
    )


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
