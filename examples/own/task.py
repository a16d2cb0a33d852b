r"""A task of your own: questions in a function, and a verifier of answers with a figure of its own.

    ebft-train method=rlvr data=rows data.function=examples/own/task.py:rows data.task=examples/own/task.py:Sums \
               data.sequence_length=64 eval.max_new_tokens=8 method.max_new_tokens=8
"""

from collections.abc import Iterator


def rows() -> Iterator[dict]:
    """Every sum of two numbers below 20; a part is held out by data.validation_fraction."""
    for a in range(20):
        for b in range(20):
            yield {"prompt": f"# {a} plus {b}\nprint(", "completion": f"{a + b})\n", "sum": a + b}


class Sums:
    directions = {"digits_only": "higher"}  # of metrics: which way is better  # noqa: RUF012
    references_pass = True  # a row whose own completion does not pass is a mistake

    def verify(self, prompt: str, completion: str, row: dict) -> float:
        """1 for the right sum, part of it for a number that is near."""
        number = self._number(completion)
        return 0.0 if number is None else 1 / (1 + abs(number - row["sum"]))

    def metrics(self, completions: list[str], rows: list[dict]) -> dict[str, float]:
        """The share of held-out answers that are a number at all."""
        return {"digits_only": sum(self._number(text) is not None for text in completions) / len(completions)}

    @staticmethod
    def _number(completion: str) -> int | None:
        text = completion.partition(")")[0].strip()
        return int(text) if text.isascii() and text.isdigit() else None
