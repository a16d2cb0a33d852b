"""Unstructured code: complete a function of a real module. An answer is right if the function compiles and does
something; it is never run."""

import ast
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Protocol, runtime_checkable

from ebft.config.schema import UserError
from ebft.sandbox.functions import is_empty
from ebft.sandbox.programs import Read
from ebft.sandbox.reading import Completion
from ebft.tasks.base import Question, Verdict
from ebft.tasks.remembered import Remembered

MAX_CONTEXT_LINES = 8  # of the module, before the function's `def` line
MAX_DOCSTRING_LINES = 3  # functions with a longer docstring are left out, as the prompt would be mostly text
MAX_BODY_LINES = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def questions(module_name: str, source: str) -> Iterator[Question]:
    """Every function and method of a module whose body is short: given are lines before it, its signature and
    docstring, wanted is the rest.

    The line end between them is the answer's first character: tokenizers join it with the indentation that follows.
    All questions of a module share its name as key. Raises UserError for a module that is not Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"module {module_name} is not Python of this interpreter ({error}); leave it out.") from error
    lines = source.split("\n")
    for function in _functions(tree):
        body = _first_line_of_body(function, lines)
        if body is not None:
            yield _question(function, body, lines, module_name)


def _functions(node: ast.AST) -> Iterator[Function]:
    """Functions in the order of the text, without those inside others, which may need names of their surroundings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # what may hold statements
            yield from _functions(child)


def _first_line_of_body(function: Function, lines: Sequence[str]) -> int | None:
    """Counted from 0 and without the docstring; None if the function is long, empty, or written on one line."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    if is_empty(function) or _num_lines(docstring) > MAX_DOCSTRING_LINES:
        return None
    first = function.body[0 if docstring is None else 1]
    decorators = first.decorator_list if isinstance(first, Function | ast.ClassDef) else []
    start = min([first.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    shares_its_line = lines[start][: first.col_offset].strip()
    return None if shares_its_line or _end(function) - start > MAX_BODY_LINES else start


def _num_lines(node: ast.stmt | None) -> int:
    return 0 if node is None else _end(node) - node.lineno + 1


def _end(node: ast.stmt) -> int:
    assert node.end_lineno is not None  # true of every tree that comes from text
    return node.end_lineno


def _question(function: Function, body: int, lines: Sequence[str], module_name: str) -> Question:
    signature = function.lineno - 1
    surroundings = "if True:\n" if function.col_offset else ""  # a method keeps its indentation and still stands alone
    return Question(
        key=module_name,
        prompt="\n".join(lines[max(0, signature - MAX_CONTEXT_LINES) : body]),
        answer="".join(f"\n{line}" for line in lines[body : _end(function)]) + "\n",
        origin=f"module {module_name}, line {function.lineno}",
        program_prefix=surroundings + "\n".join(lines[signature:body]),
    )


@runtime_checkable
class TextReader(Protocol):
    """What reads texts under limits, such as the sandbox."""

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]: ...


class Parses:
    """Scores 1 or 0: the program prefix and the text, up to the end of the function, compile, and the function's body
    does something. A text on which that cannot be found out within the reader's limits does not. What was read is
    remembered, for figures ask about the texts that were judged."""

    def __init__(self, reader: TextReader) -> None:
        self._reads = Remembered[tuple[str, str], tuple[str, str], Read](
            lambda texts: reader.read_all("complete", texts), lambda read: not read.error
        )

    def verify(self, text: str, question: Question) -> Verdict:
        return self.verify_all([text], [question])[0]

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        asked = [(text, question.program_prefix) for text, question in zip(texts, questions, strict=True)]
        reads = self._reads({each: each for each in asked})
        return [_verdict(reads[each]) for each in asked]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """The share of texts whose function compiles and does something, whether or not the text came to an end."""
        known = [parsed for parsed in self._parsed(texts, questions) if parsed is not None]
        return {"parse_rate": fmean(known)} if known else {}

    def row_figures(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, list[float | None]]:
        return {"parse_rate": self._parsed(texts, questions)}

    def _parsed(self, texts: Sequence[str], questions: Sequence[Question]) -> list[float | None]:
        return [verdict.score for verdict in self.verify_all(texts, questions)]


def _verdict(read: Read) -> Verdict:
    if read.error:
        return Verdict(score=None, passed=False, kind=read.error)
    found = Completion("syntax", ended=False) if read.found is None else Completion(*read.found)
    return Verdict(float(found.kind == "passed"), found.kind == "passed", found.kind, found.ended)
