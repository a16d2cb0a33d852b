"""Functions that a model completes: where their text ends, whether it compiles, whether it says anything. Nothing here
executes any of it."""

import ast
import re
import warnings

DEFINITION = re.compile(r"^([ \t]*)(?:async[ \t]+)?def\b", re.MULTILINE)
MAX_ENDS = 200  # of a text that are tried: each costs as much as all before it
MAX_UNFOLDED_NODES = 100_000  # a tenth of a second of the compiler's; an answer has hundreds
CODE_LINE = re.compile(r"^([ \t]*)[^\s#]", re.MULTILINE)


def cut(prefix: str, text: str) -> str:
    """`text` up to the first line that leaves the function whose beginning, its `def` line included, ends `prefix`.

    A line leaves the function if it is neither blank nor a comment and is indented no deeper than its `def`. It may
    also stand inside a bracket or a long string, so the text ends before the first such line where what is left
    compiles, or after the last line if it compiles there; where nothing does, before the first such line, as behind so
    many that none of them was it. Without a prefix the text is a program of its own and is not cut.
    """
    if not prefix:
        return text
    definitions = DEFINITION.findall(prefix)
    depth = len(definitions[-1]) if definitions else 0
    whole = prefix + text
    lines = CODE_LINE.finditer(whole, len(prefix) if prefix.endswith("\n") else _next_line(whole, len(prefix)))
    leaving = [line.start() for line in lines if len(line[1]) <= depth]
    if not leaving:
        return text
    ends = (end for end in (*leaving[:MAX_ENDS], len(whole)) if parse(whole[:end]) is not None)
    return whole[len(prefix) : next(ends, leaving[0])]


def _next_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end + 1


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a program that compiles, otherwise None, whatever the text holds. One that the compiler would
    unfold without measure does not: it is no answer, and would cost the trainer its time and memory."""
    try:
        # doubtful escapes and comparisons, which a caller may have made errors
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
            if _unfolded(tree)[0] > MAX_UNFOLDED_NODES:
                return None
            compile(tree, "<completion>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, lone surrogates
        return None
    return tree


def _unfolded(node: ast.AST) -> tuple[int, int]:
    """How many nodes the compiler visits, and how many ways out (return, break, continue) among them. It compiles a
    `finally` once for the end of its `try`, once for an error, and once for every way out: 18 of them, one in
    another's, are 983 characters and 2^18 copies."""
    last = node.finalbody if isinstance(node, ast.Try | ast.TryStar) else []
    nodes, exits = 1, int(isinstance(node, ast.Return | ast.Break | ast.Continue))
    for child in ast.iter_child_nodes(node):
        if child not in last:
            more, ways = _unfolded(child)
            nodes, exits = nodes + more, exits + ways
    copies = 2 + exits
    for child in last:
        more, ways = _unfolded(child)
        nodes, exits = nodes + copies * more, exits + copies * ways
    return nodes, exits


def says_something(tree: ast.Module) -> bool:
    """Whether the last statement of a program, such as the function just completed, does anything."""
    return bool(tree.body) and not is_empty(tree.body[-1])


def is_empty(node: ast.stmt) -> bool:
    """Whether a statement, of a definition or an `if` all that is in it, is only `pass`, `...` or text."""
    if isinstance(node, ast.If):
        return all(is_empty(child) for child in node.body + node.orelse)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return all(is_empty(child) for child in node.body)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
