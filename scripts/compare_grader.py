"""Every reference answer of a data set, graded twice: by the sandbox as in a run, and by a fresh interpreter that runs
answer and tests as one file. Prints where the two disagree.

    python scripts/compare_grader.py data=mbpp data.path=mbpp.jsonl.gz
    python scripts/compare_grader.py data=humaneval data.path=HumanEval.jsonl.gz --workers 4
    python scripts/compare_grader.py data=jsonl data.path=rows.jsonl data.prompt_column=p ...    # as for ebft-train

The fresh interpreter is confined by nothing but time: run this on data that you trust.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ebft.cli.compose import compose
from ebft.data import read
from ebft.sandbox import Program, ProgramResult, Sandbox
from ebft.sandbox.outputs import same_output
from ebft.tasks.base import Question
from ebft.tasks.unit_tests import program

PLAIN_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="the data, as for ebft-train")
    parser.add_argument("--workers", type=int, default=2, help="programs at a time")
    arguments = parser.parse_args()
    config = compose([*arguments.overrides, "sandbox.allow_code_execution=true"])
    questions = [document.question for side in read(config.data) for document in side if document.question is not None]
    print(f"{len(questions)} questions, {sum(is_in_process(question) for question in questions)} marked in_process")
    with Sandbox(replace(config.sandbox, workers=arguments.workers)) as sandbox:
        graded = sandbox.run_all([program(question.answer, question) for question in questions])
    with ThreadPoolExecutor(arguments.workers) as threads:
        plain = list(threads.map(runs_plainly, questions))
    report(questions, graded, plain)


def is_in_process(question: Question) -> bool:
    return question.tests is not None and question.tests.in_process


def report(questions: list[Question], graded: list[ProgramResult], plain: list[bool]) -> None:
    print(f"plain execution: {sum(plain)} pass")
    print(f"sandbox: {dict(Counter(outcome.kind for outcome in graded))}", end="")
    print(f", {sum(outcome.in_process for outcome in graded)} beside the program")
    failed = [question.origin for question, right in zip(questions, plain, strict=True) if not right]
    print(f"fail in plain execution: {', '.join(failed) or 'none'}")
    differ = [
        f"  {question.origin}: plain {'passed' if right else 'failed'}, sandbox {outcome.kind}"
        for question, outcome, right in zip(questions, graded, plain, strict=True)
        if (outcome.status == "passed") != right
    ]
    print("\n".join([f"{len(differ)} disagreements", *differ]))


def runs_plainly(question: Question) -> bool:
    """Whether the reference answer passes, run as people run it."""
    whole = program(question.answer, question)
    if whole.tests.exchanges:
        return all(
            same_output(fresh(whole.source, exchange.given) or "", exchange.expected)
            for exchange in whole.tests.exchanges
        )
    return fresh(one_file(whole), "") is not None


def one_file(whole: Program) -> str:
    tests, classes = whole.tests, "import sys, unittest as _unittest\n"
    classes += "_run = _unittest.main(argv=[''], exit=False, module=sys.modules['__main__']).result\n"
    classes += "sys.exit(not _run.wasSuccessful())\n" if "TestCase" in tests.code else "sys.exit(0)\n"
    return "\n".join([tests.setup, whole.source, f"candidate = {tests.entry_point}", tests.code, classes])


def fresh(source: str, given: str) -> str | None:
    """What a file of this content writes; None where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/answer.py"
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(source)
        try:
            done = subprocess.run(
                [sys.executable, path], input=given, capture_output=True, text=True, cwd=folder, timeout=PLAIN_SECONDS
            )
        except subprocess.TimeoutExpired:
            return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    main()
