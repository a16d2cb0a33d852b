"""Reference answers against their own tests: all of a data set's rows, in parallel, and each content once on a machine.

What became of one is kept (output/cache.py) by a hash of the program, its tests, and all that could change the verdict.
Time limits and failures of the machine are not kept.
"""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from uuid import uuid4

from ebft import sandbox as sandbox_package
from ebft.config.schema import RunFailure, SandboxConfig, TrainConfig, UserError
from ebft.config.stored import text_of
from ebft.output import cache
from ebft.output.files import atomic_write_text
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.sandbox import Sandbox
from ebft.tasks.base import Question
from ebft.tasks.unit_tests import digest_of, program

PASSED = "passed"
_NAMED = 10  # rows that a message names
_BATCH = 1000  # programs between two looks at what is to be kept
_LASTING_LIMITS = ("strict", "seconds", "clock_factor", "memory_mb", "output_kb", "processes", "packages")


@dataclass(frozen=True)
class ReferenceResult:
    """What became of one."""

    kind: str  # passed, or how the reference answer failed
    in_process: bool


class References:
    """Tries the reference answers of a run, with what runs programs in it. Raises UserError where code may not run
    here, RunFailure for a sandbox that does not tell good from bad."""

    def __init__(self, config: TrainConfig, world: World = SINGLE_PROCESS) -> None:
        self._config, self._world = config, world
        self._known: dict[str, ReferenceResult] = {}
        self.started: Sandbox | None = None
        self.num_tried = 0
        self.dropped: dict[str, str] = {}  # how they failed, by origin

    def runner(self) -> Sandbox:
        self.started = self.started or _sandbox(self._config)
        return self.started

    def reader(self) -> Sandbox:
        """What reads texts: reading runs nothing, so it needs limits and no permission."""
        settings = replace(self._config.sandbox, require="none", workers=1, processes=None, packages=[])
        return self.started or Sandbox(settings)

    def drop_failing(self, questions: Sequence[Question]) -> list[bool]:
        """Whether a question is to be dropped, because its reference answer fails."""
        attempts = self.attempts(questions)
        self.num_tried += len(questions)
        failed = {
            question.origin: attempt.kind
            for question, attempt in zip(questions, attempts, strict=True)
            if attempt.kind != PASSED
        }
        self.dropped |= failed
        return [question.origin in failed for question in questions]

    def attempts(self, questions: Sequence[Question]) -> list[ReferenceResult]:
        """How the reference answer of each question did. RunFailure where the machine failed one: that says nothing
        about it."""
        programs = [program(question.answer, question) for question in questions]
        digests = [digest_of(each) for each in programs]
        self._known |= _kept(self._folder)
        missing = {digest: each for digest, each in zip(digests, programs, strict=True) if digest not in self._known}
        own = list(missing)[self._world.rank :: self._world.size]
        tried: dict[str, ReferenceResult] = {}
        errors: dict[str, str] = {}
        for start in range(0, len(own), _BATCH):
            batch = own[start : start + _BATCH]
            outcomes = self.runner().run_all([missing[digest] for digest in batch])
            done = dict(zip(batch, outcomes, strict=True))
            errors |= {digest: outcome.kind for digest, outcome in done.items() if outcome.status == "error"}
            new = {digest: ReferenceResult(outcome.kind, outcome.in_process) for digest, outcome in done.items()}
            _keep(self._folder, {digest: attempt for digest, attempt in new.items() if digest not in errors})
            tried |= new
        for part, failures in self._world.all_gather((tried, errors)):
            self._known |= part
            errors |= failures
        for question, digest in zip(questions, digests, strict=True):
            if digest in errors:
                raise RunFailure(
                    f"The reference answer of {question.origin} and {len(errors) - 1} others could not be tried "
                    f"({errors[digest]}), which says nothing about them; try again, with fewer programs beside this "
                    "one or a lower sandbox.workers."
                )
        return [self._known[digest] for digest in digests]

    @cached_property
    def _folder(self) -> Path | None:
        root = cache.folder("references")
        return None if root is None else root / _surroundings(self._config.sandbox)

    def plan(self) -> dict[str, str]:
        """A line for people, which names some of the dropped."""
        if not self.num_tried:
            return {}
        dropped = f", {len(self.dropped)} fail and are dropped: {named(self.dropped)}" if self.dropped else ""
        return {"reference answers": f"{self.num_tried} tried{dropped}"}

    def notes(self) -> list[str]:
        """Lines that name all of the dropped, where the plan does not."""
        if len(self.dropped) <= _NAMED:
            return []
        return [f"dropped, as its reference answer fails: {origin} ({kind})" for origin, kind in self.dropped.items()]


def named(failed: dict[str, str]) -> str:
    """The first of some rows, and how many more there are."""
    first = [f"{origin} ({kind})" for origin, kind in list(failed.items())[:_NAMED]]
    return ", ".join(first) + (f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else "")


def _sandbox(config: TrainConfig) -> Sandbox:
    embedded = config.model.path == "tiny" and config.data.source == "code_qa"  # nothing from the outside
    if not (config.sandbox.allow_code_execution or embedded):
        raise UserError(
            f"data.task={config.data.task} runs programs that model.path={config.model.path} writes; "
            "set sandbox.allow_code_execution=true once you have read docs/graders.md, or data.task=null to judge no "
            "answers."
        )
    sandbox = Sandbox(config.sandbox)
    sandbox.check_canaries()
    return sandbox


def _surroundings(config: SandboxConfig) -> str:
    """All that a verdict may depend on beside the program and its tests."""
    settings = asdict(config)
    code = sorted(Path(sandbox_package.__file__).parent.glob("*.py"))
    parts = [
        platform.python_version(),
        platform.machine(),
        *(f"{name}={settings[name]}" for name in _LASTING_LIMITS),
        *(f"{package}={metadata.version(package)}" for package in config.packages),
        *(sha256(path.read_bytes()).hexdigest() for path in code),
    ]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _kept(folder: Path | None) -> dict[str, ReferenceResult]:
    return {} if folder is None else dict(_read(folder))


def _read(folder: Path) -> Iterator[tuple[str, ReferenceResult]]:
    """Those in files that this user has written, and that are as they were written."""
    for path in filter(cache.is_own, sorted(folder.glob("*.json"))):
        try:
            content = json.loads(text_of(path))
            found = [(digest, kind, in_process) for digest, (kind, in_process) in content.items()]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            continue
        for digest, kind, in_process in found:
            if isinstance(kind, str) and isinstance(in_process, bool):
                yield digest, ReferenceResult(kind, in_process)


def _keep(folder: Path | None, attempts: dict[str, ReferenceResult]) -> None:
    """A file of its own for each batch, so that processes never write into the same one."""
    lasting = {digest: [one.kind, one.in_process] for digest, one in attempts.items() if one.kind != "timeout"}
    if folder is None or not lasting:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / f"{uuid4().hex}.json", json.dumps(lasting))
    except PermissionError:  # a home that may only be read costs time and nothing else
        return
