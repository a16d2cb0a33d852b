"""Which part of an answer is the program, and how that is said; and that reading it costs no more than it may."""

import time
from dataclasses import replace

import pytest

from ebft.sandbox import Read, Sandbox, levels
from ebft.sandbox.reading import blocks, read
from tests.sandbox.helpers import CONFIG, ReadHere

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


GOOD, BAD = ("    return 1\ndef g(\n", "def f():\n"), ("    return (\n", "def f():\n")


def unfolding(depth: int, indent: int = 4) -> str:
    """So many `finally`, one in the other, each with a way out."""
    blank = " " * indent
    inner = unfolding(depth - 1, indent + 1) if depth else f"{blank} return 1\n"
    return f"{blank}try: return 2\n{blank}finally:\n{inner}"


ENDLESS = ("    x = (\n" + "     1,\n" * 100_000 + "(\n" * 300, "def f():\n")  # 20 seconds
# What could cost any time or memory: in the parser, in the compiler, in what we do around them.
COSTLY = {
    "nested finally": (unfolding(16), "def f():\n"),
    "lines that never end a bracket": ("x = (\n" + "1\n" * 50_000, "def f():\n"),
    "a long sum": ("    return " + "1+" * 200_000 + "1\n", "def f():\n"),
    "brackets": ("    return " + "(" * 200_000, "def f():\n"),
    "a number of many digits": ("    return " + "9" * 3_000_000, "def f():\n"),
    "definitions": ("    pass\n" + "def g(\n" * 50_000, "def f():\n"),
    "fences": ("```\n(" * 50_000, ""),
    "many ends of a long list": ENDLESS,
    "a megabyte of lists": ("    return " + "[" * 90 + "1,\n" * 900_000, "def f():\n"),
}


def test_a_confined_process_reads_as_we_do(sandbox: Sandbox) -> None:
    asked = [("x = 1\n", "", ""), (f"```\n{F}```", "", "f"), (BODY, PREFIX, "f"), ("\ud800\0", "", "f")] * 2
    assert sandbox.read_all("read", asked) == ReadHere().read_all("read", asked)
    assert sandbox.read_all("complete", [GOOD, BAD]) == [Read(["passed", True]), Read(["syntax", False])]
    assert sandbox.read_all("read", []) == []


@pytest.mark.slow
@pytest.mark.parametrize("parts", [levels.PARTS, levels.PARTS[:3], levels.PARTS[:1], ()])
def test_no_text_costs_more_than_it_may(parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends by its limits, and those behind it are read. At no level does it need a permission."""
    monkeypatch.setattr(levels, "PARTS", parts)
    with Sandbox(replace(CONFIG, workers=1, seconds=10.0, allow_code_execution=False)) as sandbox:
        asked = [text for costly in COSTLY.values() for text in (GOOD, costly)]
        started = time.monotonic()
        read = sandbox.read_all("complete", [*asked, BAD])
        assert time.monotonic() - started < 4 * len(COSTLY)
        assert read[::2] == [Read(["passed", True])] * len(COSTLY) + [Read(["syntax", False])]
        found = dict(zip(COSTLY, read[1::2], strict=True))
        assert found["many ends of a long list"] == Read()
        assert all(one.found is None or one.found[0] != "passed" for one in found.values()), found
