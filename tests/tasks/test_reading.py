"""Which part of an answer is the program, and how that is said."""

import pytest

from ebft.tasks.reading import blocks, read

F = "def f(x):\n    return x + 1\n"
PREFIX = 'import math\n\ndef f(x):\n    """Adds one."""\n'
BODY = "    return x + 1\n"


@pytest.mark.parametrize(
    ("text", "source", "how", "ended"),
    [
        (F, F, "text", False),
        (f"Here it is:\n\n```python\n{F}```\nIt adds one.", F, "fence", True),
        (f"```\n{F}```", F, "fence", True),
        (f"~~~~py\n{F}~~~~\n", F, "fence", True),
        (f"```python\r\n{F}```\r\n".replace("\n", "\r\n"), F, "fence", True),
        (f"A helper:\n```python\ng = 1\n```\nand then\n```python\n{F}```\n```python\nf = 2\n```", F, "fence", True),
        (f"```python\n{F}", F, "fence", False),
        (f"1. So:\n\n   ```python\n   {F.strip().replace(chr(10), chr(10) + '   ')}\n   ```\n", F, "fence", True),
        (f"```python\nf = g = abs\n```\n{F}", "f = g = abs\n", "fence", True),
        (f'{F}"""\n```python\nf = 2\n```\n"""\n', f'{F}"""\n```python\nf = 2\n```\n"""\n', "text", False),
        (
            f"```python\n{F[:10]}    '''\n    ```\n    f(1)\n    ```\n    '''\n{F[10:]}```\nend",
            f"{F[:10]}    '''\n    ```\n    f(1)\n    ```\n    '''\n{F[10:]}",
            "fence",
            True,
        ),
        (f" {F}", F, "stripped", False),
        (f"\n\n {F}y = 2\n", f"{F}y = 2", "stripped", False),
        ("    def f(x):\n        return x + 1\n    y = 2\n", f"{F}y = 2", "stripped", False),
        (f"<think>\n```python\n{F.replace('1', '2')}```\n</think>\n\nSo:\n```python\n{F}```", F, "fence", True),
        (f"<think>def f(x): ...</think>\n{F}", F, "behind_thoughts", False),
        (f"{F}y = '</think>'\n", f"{F}y = '</think>'\n", "text", False),
        (f"<think>\n```python\n{F}```\n</think>\nI cannot.", "I cannot.", "behind_thoughts", False),
        ("I cannot.", "I cannot.", "text", False),
        ("```python\ndef g(x): ...\n```", "```python\ndef g(x): ...\n```", "text", False),
        (f"{F}print(", f"{F}print(", "text", False),
    ],
)  # fmt: skip
def test_a_program_is_the_first_block_that_defines_its_entry_point_or_the_text(
    text: str, source: str, how: str, ended: bool
) -> None:
    found = read(text, "", "f")
    assert (found.source.rstrip("\n"), found.how, found.ended) == (source.rstrip("\n"), how, ended)


@pytest.mark.parametrize(
    ("text", "source", "how", "ended"),
    [
        (BODY, PREFIX + BODY, "continuation", False),
        (f"{BODY}\nprint(f(1))\n", f"{PREFIX}{BODY}\n", "continuation", True),
        (f" {BODY}    # end\n", f"{PREFIX}{BODY}    # end\n", "stripped", False),
        (F, F, "whole", False),
        (f" {F}", F, "whole", False),
        (f"Sure!\n```python\nimport math\n{F}```\nDone.", f"import math\n{F}", "fence", True),
        (f"```python\n{BODY}```\n", PREFIX + BODY, "fence", True),
        (f"hm ```\n{F[:-2]}2\n```</think>\n{BODY}", PREFIX + BODY, "continuation", False),
        (f"{BODY}```\nDone.", f"{PREFIX}{BODY}", "continuation", True),
        ("No.", PREFIX, "continuation", True),
    ],
)
def test_a_completion_goes_on_or_holds_the_whole_function(text: str, source: str, how: str, ended: bool) -> None:
    found = read(text, PREFIX, "f")
    assert (found.source.rstrip("\n"), found.how, found.ended) == (source.rstrip("\n"), how, ended)


def test_a_whole_program_is_the_first_block_that_compiles() -> None:
    found = read("Reads a number:\n```\n$ run it\n```\n```python\nprint(input())\n```", "", "")
    assert (found.source, found.how) == ("print(input())\n", "fence")


def test_a_fence_ends_by_one_as_long_of_its_kind() -> None:
    text = "````\na\n```\nb\n````\n~~~\nc\n```\n~~~\n```d`\n"
    assert [(block.code, block.closed) for block in blocks(text)] == [("a\n```\nb\n", True), ("c\n```\n", True)]
