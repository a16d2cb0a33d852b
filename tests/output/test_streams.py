"""A program goes on when nobody takes what it writes: it once died at a line of its log, with an empty reason."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import io, sys
sys.path.insert(0, {root!r})
from ebft.output.streams import outlive_console
outlive_console()
for number in range(3):
    print("line", number, flush=True)
    sys.stdin.readline()
print("unflushed" * 10_000)
print("done", file=sys.stderr)
"""
COMMAND = [sys.executable, "-S", "-c", PROGRAM.format(root=str(Path(__file__).parents[2]))]


def test_a_full_disk_behind_the_console(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(COMMAND, input="\n\n\n", stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "done\n")
        assert subprocess.run(COMMAND, input=b"\n\n\n", stdout=full, stderr=full, check=False).returncode == 0


def test_a_reader_that_has_seen_enough() -> None:
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        process.stdin.write("\n\n\n")
        process.stdin.close()
        assert process.stderr.read() == "done\n"
    assert process.returncode == 0


def test_streams_that_somebody_has_replaced_stay(capsys: pytest.CaptureFixture[str]) -> None:
    from ebft.output.streams import outlive_console

    outlive_console()
    print("here")
    assert capsys.readouterr().out == "here\n"


def test_a_command_that_makes_output_alone_says_that_it_was_cut() -> None:
    """`--cfg job > file` on a full disk left half a file and exit code 0; a reader that has seen enough is no error."""
    shown = COMMAND[-1] + "from ebft.output.streams import end_if_cut\nend_if_cut()\n"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND[:-1], shown], input="\n\n\n", stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "done\nNot all of the output could be written (No space left on device).\n"
    with subprocess.Popen(
        [*COMMAND[:-1], shown], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.communicate(b"\n\n\n")[1] == b"done\n"
    assert process.returncode == 0


def test_no_output_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind `>&-` there is no stream; `--help` ended in a traceback."""
    from ebft.output.streams import end_if_cut

    monkeypatch.setattr(sys, "stdout", None)
    end_if_cut()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    ["train --help", "train --version", "train --cfg job", "train -sc install=bash", "eval --help", "eval --cfg job",
     "sweep --help", "sweep --cfg job", "sweep -sc install=bash", "sweep mode=plan", "export --help"],
)  # fmt: skip
def test_what_is_only_shown_is_shown_or_an_error(arguments: str) -> None:
    command, *words = arguments.split()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", f"ebft.cli.{command}", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Not all of the output could be written (No space left on device).\n"
