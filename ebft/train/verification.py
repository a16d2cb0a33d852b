"""Who judges completions in a run: the verifier that `data.task` names, tried on reference answers before anything is
trained on its word."""

from ebft.config.doors import doors
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.data import Data, Questions, Tokenization
from ebft.evaluation import Examiner
from ebft.models.loading import PositionLimit
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.sandbox import Sandbox
from ebft.tasks import build
from ebft.tasks.base import Verifier
from ebft.tasks.grader import Grader
from ebft.tasks.own import OwnTask


class Verification:
    """The verifier of a run and what it is asked about. Raises UserError for code that may not run here, questions that
    leave no room for an answer, and reference answers that fail their own test; RunFailure for a sandbox that does not
    tell good from bad."""

    def __init__(
        self,
        config: TrainConfig,
        loaded: Data,
        tokenization: Tokenization,
        limit: PositionLimit,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.config, self.tokenization = config, tokenization
        self.train, self.validation = loaded.train_questions, loaded.validation_questions
        self.sandbox: Sandbox | None = None
        self.verifier: Verifier | None = None
        self.reward: Verifier | None = None  # of training, where the method names one of the user's own
        used = self._used()
        if not used:
            return
        self._check_room(used, limit)
        assert config.data.task is not None
        self.verifier = build(config.data.task, self._runner)
        for questions in used:
            _check_references(self.verifier, questions, config.sandbox.check_references, world)
        own_reward = doors(config).get("method.reward")
        if self._trains_on_questions and own_reward is not None:
            self.reward = OwnTask(own_reward, "method.reward", self._runner)
            _check_references(self.reward, used[0], config.sandbox.check_references, world)

    def _runner(self) -> Sandbox:
        self.sandbox = self.sandbox or _sandbox(self.config)
        return self.sandbox

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
        lines = {"verifier": str(self.config.data.task)}
        if self.sandbox is not None:
            lines["code execution"] = f"on, sandbox level {self.sandbox.level}"
        return lines


def _sandbox(config: TrainConfig) -> Sandbox:
    embedded = config.model.path == "tiny" and config.data.source == "code_qa"  # nothing from the outside
    if not (config.sandbox.allow_code_execution or embedded):
        raise UserError(
            f"data.task={config.data.task} runs programs that model.path={config.model.path} writes; allow it with "
            "sandbox.allow_code_execution=true, or turn it off with data.task=null (with eval.num_questions=0 and a "
            "method that asks no questions it is not needed)."
        )
    sandbox = Sandbox(config.sandbox)
    sandbox.check_canaries()
    return sandbox


def _check_references(verifier: Verifier, questions: Questions, number: int | None, world: World) -> None:
    """Reference answers, evenly spread, must pass, if only without an error where a user's own task does not say that
    they do; every process tries its part of them."""
    number = len(questions) if number is None else min(number, len(questions))
    chosen = [questions.items[place * len(questions) // number] for place in range(world.rank, number, world.size)]
    try:
        verdicts = verifier.verify_all([question.answer for question in chosen], chosen)
    except RunFailure as error:  # nothing runs yet
        raise UserError(str(error)) from error
    must_pass = not isinstance(verifier, OwnTask) or verifier.references_pass
    for question, verdict in zip(chosen, verdicts, strict=True):
        if must_pass and not verdict.passed:
            raise UserError(
                f"The reference answer of {question.origin} fails its own test ({verdict.kind}); correct or remove "
                "the row, or set data.task=null."
            )
