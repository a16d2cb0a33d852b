"""Who judges completions in a run: the verifier that `data.task` names, tried on reference answers before anything is
trained on its word."""

from ebft.config.defaults import has_sacrebleu
from ebft.config.doors import doors
from ebft.config.schema import ColumnsDataConfig, RunFailure, TrainConfig, UserError
from ebft.data import Data, Questions, Tokenization
from ebft.evaluation import Examiner
from ebft.models.positions import PositionLimit
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.tasks import UnitTests, build
from ebft.tasks.base import Question, Verifier
from ebft.tasks.grader import Grader
from ebft.tasks.own import OwnTask
from ebft.tasks.text_match import INSTALL
from ebft.train.references import PASSED, References, named

NUM_REFERENCES = 64  # that are tried where the data set does not bring its own tests


class Verification:
    """The verifier of a run and what it is asked about. Raises UserError for code that may not run here, questions that
    leave no room for an answer, and reference answers that fail their own tests; RunFailure for a sandbox that does not
    tell good from bad, and for one that could not try a reference answer."""

    def __init__(
        self,
        config: TrainConfig,
        loaded: Data,
        tokenization: Tokenization,
        limit: PositionLimit,
        world: World = SINGLE_PROCESS,
        references: References | None = None,
    ) -> None:
        self.config, self.tokenization = config, tokenization
        self.train, self.validation = loaded.train_questions, loaded.validation_questions
        self.references = References(config, world) if references is None else references
        self.verifier: Verifier | None = None
        self.reward: Verifier | None = None  # of training, where the method names one of the user's own
        used = self._used()
        if not used:
            return
        self._check_room(used, limit)
        assert config.data.task is not None
        self.verifier = build(config.data.task, self.references.runner, self.references.reader)
        for questions in used:
            self._check_references(self.verifier, questions, world)
        own_reward = doors(config).get("method.reward")
        if self._trains_on_questions and own_reward is not None:
            self.reward = OwnTask(own_reward, "method.reward", self.references.runner)
            self._check_references(self.reward, used[0], world)

    @property
    def _trains_on_questions(self) -> bool:
        return self.train is not None and self.config.method.needs(self.config.sampler).asks_questions

    def _used(self) -> list[Questions]:
        """The sides that this run asks about."""
        trained = self.train if self._trains_on_questions else None
        examined = self.validation if self.config.eval.num_questions else None
        return [questions for questions in (trained, examined) if questions is not None]

    def _check_room(self, used: list[Questions], limit: PositionLimit) -> None:
        config = self.config
        needs = config.method.needs(config.sampler)
        longest = max(config.eval.max_new_tokens, needs.rollout_tokens if needs.asks_questions else 0)
        for questions in used:
            prompts = (~questions.rows.completion_mask & (questions.rows.document_ids >= 0)).sum(1)
            row = int(prompts.argmax())
            if limit.positions is not None and int(prompts[row]) + longest > limit.positions:
                raise UserError(
                    f"The prompt of {questions.items[row].origin} has {int(prompts[row])} tokens, which with "
                    f"{longest} new ones is over the {limit.positions} {limit.what}; lower max_new_tokens of method "
                    "and eval, or shorten the prompt."
                )

    def grader(self) -> Grader | None:
        """The grader of the training questions."""
        return self._grader(self.train, self.reward or self.verifier)

    def examiner(self) -> Examiner | None:
        """The examiner of `eval.num_questions` held-out questions, evenly spread."""
        evaluation, questions, grader = self.config.eval, self.validation, self._grader(self.validation, self.verifier)
        if grader is None or questions is None or not evaluation.num_questions:
            return None
        number = min(evaluation.num_questions, len(questions))
        spread = [place * len(questions) // number for place in range(number)]
        size = evaluation.micro_batch_size
        return Examiner(
            evaluation, [questions.rows.batch(spread[start : start + size]) for start in range(0, number, size)], grader
        )

    def _grader(self, questions: Questions | None, verifier: Verifier | None) -> Grader | None:
        if verifier is None or questions is None:
            return None

        def decode(number: int, completions: list[list[int]]) -> list[str]:
            return self.tokenization.continuations(questions.prompt(number), completions)

        return Grader(verifier, questions.items, decode, self.tokenization.stop_tokens)

    @property
    def directions(self) -> dict[str, str]:
        """Which way the metrics of a user's own task are better."""
        return self.verifier.directions if isinstance(self.verifier, OwnTask) else {}

    def plan(self) -> dict[str, str]:
        """Lines for people."""
        if self.verifier is None:
            return {}
        lines = {"verifier": f"{self.config.data.task}{self._left_out()}"}
        if self.references.started is not None:
            lines["code execution"] = f"on, sandbox level {self.references.started.level}"
        if (beside := self._num_in_process()) != "0":
            lines["tests in the program's own process"] = f"of {beside} questions; sandbox.strict=true refuses them"
        return lines | self.references.plan()

    def _left_out(self) -> str:
        """What translations are judged by where sacrebleu is installed."""
        is_asked = self.config.data.source == "translation" and not has_sacrebleu()
        return f"; chrF and BLEU are left out, for sacrebleu is not installed ({INSTALL})" if is_asked else ""

    def _num_in_process(self) -> str:
        sides = {"training": self.train, "held-out": self.validation}
        counts = {
            name: sum(question.tests is not None and question.tests.in_process for question in side.items)
            for name, side in sides.items()
            if side is not None
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "0"

    def _check_references(self, verifier: Verifier, questions: Questions, world: World) -> None:
        """Reference answers, evenly spread, must pass, if only without an error where a user's own task does not say
        that they do; every process tries its part of them."""
        number, own_tests = self.config.sandbox.check_references, isinstance(self.config.data, ColumnsDataConfig)
        if number is None and not (own_tests and isinstance(verifier, UnitTests)):
            number = NUM_REFERENCES
        number = len(questions) if number is None else min(number, len(questions))
        chosen = [questions.items[place * len(questions) // number] for place in range(number)]
        if isinstance(verifier, UnitTests):
            kinds = [attempt.kind for attempt in self.references.attempts(chosen)]
        else:
            kinds = _kinds(verifier, chosen, world)
        if isinstance(verifier, OwnTask) and not verifier.references_pass:
            return
        failed = {question.origin: kind for question, kind in zip(chosen, kinds, strict=True) if kind != PASSED}
        if failed:
            raise UserError(_refusal(failed, len(chosen), own_tests and isinstance(verifier, UnitTests)))


def _kinds(verifier: Verifier, questions: list[Question], world: World) -> list[str]:
    """How the reference answers did, of which every process tries its part. RunFailure where the machine failed one."""
    own = questions[world.rank :: world.size]
    try:
        verdicts = verifier.verify_all([question.answer for question in own], own)
    except RunFailure as error:  # nothing runs yet
        raise UserError(str(error)) from error
    for question, verdict in zip(own, verdicts, strict=True):
        if verdict.score is None:
            raise RunFailure(
                f"The reference answer of {question.origin} could not be judged ({verdict.kind}), which says nothing "
                "about it; try again."
            )
    everybody = world.all_gather([PASSED if verdict.passed else verdict.kind for verdict in verdicts])
    return [everybody[place % world.size][place // world.size] for place in range(len(questions))]


def _refusal(failed: dict[str, str], number: int, droppable: bool) -> str:
    drop = "drop all such rows with data.drop_failing_references=true, " if droppable else ""
    strict = " (in_process: sandbox.strict=true runs no test in the program's own process)"
    return (
        f"{len(failed)} of {number} reference answers fail their own tests: {named(failed)}"
        f"{strict if 'in_process' in failed.values() else ''}; correct or remove the rows, {drop}or set data.task=null."
    )
