"""The loop. It knows that a method prepares batches and takes losses, and never which method it is.

In order: whatever a user can have got wrong is checked, the models are loaded, the run folder is opened; then steps,
evaluations and checkpoints alternate until the last step or a signal. The state at a step is the weights, the
optimiser, the schedule and a few numbers; rows and draws are functions of the step, so a resumed run goes on bit for
bit.
"""

import resource
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.cost.workload import flops_per_token
from ebft.data import order
from ebft.evaluation import Evaluation
from ebft.output.files import WriteFailure, alone, atomic_file
from ebft.output.row_scores import BASE, LATEST
from ebft.parallel.pulse import PULSE
from ebft.parallel.world import SINGLE_PROCESS, World, in_contact
from ebft.run import checkpoint
from ebft.run.folder import Run, SilentRun, StopSignals
from ebft.run.profiling import DTYPES, NoProfile, Profile, matmul_peak, utilization
from ebft.train import kept_evaluation
from ebft.train.best import Best
from ebft.train.continuing import ROWS, check_continues
from ebft.train.exports import export_best, export_last
from ebft.train.kept_evaluation import Kept
from ebft.train.optimization import NonFiniteError, Optimization, save_batch
from ebft.train.plan import plan
from ebft.train.remaining import Remaining
from ebft.train.setup import Setup, prepare


class Stopped(Exception):
    """A signal asked the run to stop while it evaluated."""


def train(config: TrainConfig, run_dir: Path, world: World = SINGLE_PROCESS) -> str:
    """Run `config` in `run_dir`: from the start, or on from a checkpoint. Returns its status, `completed` or
    `interrupted`.

    Raises UserError before anything is written there, RunFailure for a run that could not go on; of several processes,
    all of them do.
    """
    with ExitStack() as held:
        return _train(config, run_dir, world, held)


def _train(config: TrainConfig, run_dir: Path, world: World, held: ExitStack) -> str:
    """As `train`; `held` keeps the folder for this run until its end."""
    with world.raise_together(), PULSE.busy():
        Run.check(run_dir, config)
        was_there = run_dir.is_dir()
        if world.is_rank_zero and was_there:
            held.enter_context(alone(run_dir))
            Run.check(run_dir, config)  # what another process has left
        start = checkpoint.resolve(config.resume, run_dir)
        saved = None if start is None else checkpoint.load(start, world)
        setup = prepare(config, world)
        if saved is not None:
            check_continues(config, setup, saved)
    with world.raise_together(), PULSE.busy():
        if world.is_rank_zero and not was_there:
            run_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(run_dir))
            Run.check(run_dir, config)
            if checkpoint.resolve(config.resume, run_dir) != start:
                raise UserError(f"{run_dir} has got a run of another process's in the meantime; start again.")
        run = Run(run_dir, config) if world.is_rank_zero else SilentRun(run_dir)
    run.is_complete = world.broadcast(run.is_complete)
    if run.is_complete:
        run.say(f"{run_dir} is complete; raise trainer.max_steps to train on, or choose another hydra.run.dir.")
        return "completed"
    with StopSignals(quiet=not world.is_rank_zero) as stop:
        loop = Loop(config, setup, run, stop)
        loop.restore(saved)
        run.contamination({name: asdict(share) for name, share in setup.material.contamination.items()})
        run.plan(plan(config, setup), title=f"{config.method.name} in {run_dir}")
        for note in setup.material.verification.references.notes():
            run.note(note)
        status = loop.run_to_the_end()
        world.barrier()
        return status


class Loop:
    """Steps, evaluations and checkpoints of one run."""

    def __init__(self, config: TrainConfig, setup: Setup, run: Run, stop: StopSignals) -> None:
        self.config, self.setup, self.run, self.stop = config, setup, run, stop
        self.world = setup.world
        self.optimization = Optimization(config.optimizer, setup.policy, setup.max_steps, self.world)
        self.peak = matmul_peak(DTYPES[config.trainer.dtype], "cuda") if setup.device == "cuda" else None
        self.profile: Profile = NoProfile()
        self.step = 0
        self.saving: checkpoint.Saving | None = None
        self.evaluated = -1  # the step of the latest evaluation
        self.base: Evaluation | None = None
        self.latest: Evaluation | None = None
        self.best = Best.of(config, setup.material.verification.directions)
        self.tokens_forwarded = 0.0
        self.train_seconds = 0.0  # of the steps alone, without evaluations
        self.remaining = Remaining(setup.max_steps, config.eval.every_steps)
        self.started = time.monotonic()
        # of the dropout of adapters; rollouts and rows have seeds of their own
        torch.manual_seed(config.seed + (self.world.rank << 32))

    def run_to_the_end(self) -> str:
        """Returns `completed` or `interrupted`."""
        if self.peak is not None:
            self.run.say(
                f"train/mfu is a share of {self.peak / 1e12:.1f} TFLOP/s, which a large {self.config.trainer.dtype} "
                "matmul reaches here."
            )
        if self.config.trainer.profile and self.world.is_rank_zero:
            self.profile = Profile(
                self.run.directory, self.setup.device, self.setup.max_steps - self.step, self.run.say
            )
        try:
            with in_contact(), self.run.progress(self.setup.max_steps, self.step, self._seconds_left) as progress:
                while self._settle():
                    with self.profile.step(self.step + 1):
                        metrics = self._train_step()
                    progress.update(self.step, metrics)
            done = self._is_at_end and self.evaluated == self.step
            if done:
                self._say_why_early()
                with PULSE.busy():
                    self._export()
        except BaseException as error:
            self.profile.discard()
            with suppress(OSError, WriteFailure):  # the first file that could not be written is what to hear of
                self._finish("failed", error=f"{type(error).__name__}: {error}")
            raise
        status = "completed" if done else "interrupted"
        with PULSE.busy():
            self._finish(status)
        return status

    def _say_why_early(self) -> None:
        if self.best is not None and self.best.is_over and self.step < self.setup.max_steps:
            self.run.say(
                f"Ended at step {self.step} of {self.setup.max_steps}: no better {self.best.metric} in "
                f"{self.best.waited} evaluations; a higher trainer.stop_after goes on."
            )

    def _settle(self) -> bool:
        """What is due between two steps: evaluate, save. True if another step follows."""
        config, step = self.config, self.step
        due = self._is_at_end or step % config.eval.every_steps == 0
        if due and self.evaluated < step and not self._is_to_stop():
            self.profile.close()
            self._evaluate()
        ends = self._is_at_end or self._is_to_stop()
        best = None if self.best is None else self.best.step
        self._complete_saving(if_written=True)
        if ends or step == best or (step > 0 and step % config.trainer.checkpoint_every_steps == 0):
            self.profile.close()
            self._save(best, is_last=ends)
        # saved first: whoever stops it may lose patience
        if ends and config.eval.on_interrupt and self.evaluated < step:
            self._evaluate(may_stop=False)
            self._save(None if self.best is None else self.best.step, is_last=True)
        return not ends

    def _save(self, best: int | None, is_last: bool) -> None:
        """A checkpoint, behind the one that is on its way; the last one is waited for, and that of step `best` kept."""
        self._complete_saving()
        with PULSE.busy():
            tensors, keep = self.optimization.tensors(), self.config.trainer.keep_checkpoints
            self.saving = checkpoint.Saving(
                self.run.directory, self.step, tensors, self.state(), keep, self.world, best
            )
        self._complete_saving(if_written=not is_last)

    def _complete_saving(self, if_written: bool = False) -> None:
        """The checkpoint on its way, if there is one: now, or only if that needs no waiting."""
        if self.saving is None or (if_written and not self.saving.is_written):
            return
        with PULSE.busy():
            self.run.sync()  # a checkpoint that outlives the machine has the rows before it
            self.saving.complete()
        self.saving = None

    @property
    def _is_at_end(self) -> bool:
        """Whether no step is to follow: all are taken, or there was no better evaluation for long enough."""
        return self.step == self.setup.max_steps or (self.best is not None and self.best.is_over)

    def _is_to_stop(self) -> bool:
        """Whether a signal has asked any of the processes to."""
        return self.world.any(self.stop.requested)

    def _train_step(self) -> dict[str, float]:
        config, setup, started = self.config, self.setup, time.monotonic()
        before = setup.method.tokens_forwarded
        batch = setup.batch(
            self.world.share(order(len(setup.usable), config.seed, self.step, config.trainer.batch_size))
        )
        try:
            trainer = config.trainer
            values = self.optimization.step(
                setup.method, batch, self.step, trainer.micro_batch_size, trainer.max_tokens_per_microbatch
            )
        except NonFiniteError as error:
            path = self.run.directory / f"nonfinite_step_{self.step:06d}{self.world.rank_suffix}.pt"
            with atomic_file(path) as file:
                save_batch(batch, file)
            raise RunFailure(
                f"Step {self.step} stopped: {error}; its batch is in {path}. A lower optimizer.lr is the usual cure."
            ) from error
        self.step += 1
        tokens, seconds = (
            self.world.all_reduce_number(setup.method.tokens_forwarded - before),
            time.monotonic() - started,
        )
        self.tokens_forwarded += tokens
        self.train_seconds += seconds
        self.remaining.stepped(seconds)
        metrics = {f"train/{name}": value for name, value in values.items()}
        metrics["train/tokens_per_second"] = tokens / seconds
        if self.peak is not None:
            metrics["train/mfu"] = utilization(
                tokens / self.world.size, flops_per_token(setup.workload), seconds, self.peak
            )
        self.run.log(self.step, metrics)
        return metrics

    def _seconds_left(self) -> float | None:
        return self.remaining.seconds(self.step, self.evaluated)

    def _evaluate(self, may_stop: bool = True) -> None:
        def tick() -> None:
            bar.update()
            if may_stop and self._is_to_stop():
                raise Stopped

        key = None if self.step else kept_evaluation.key(self.setup)  # the base may have been evaluated before
        kept = self.world.broadcast(kept_evaluation.find(key) if self.world.is_rank_zero else None)
        if kept is None:
            evaluator, started = self.setup.evaluator, time.monotonic()
            try:
                with self.run.evaluating(evaluator.num_ticks) as bar, self.optimization.averaged():
                    result = evaluator(self.setup.policy, tick)
            except Stopped:
                return
            kept = Kept(result, time.monotonic() - started)
            if self.world.is_rank_zero:
                kept_evaluation.keep(key, kept)
        else:
            self.run.say(f"The base was evaluated before, in {kept.seconds:.1f} s, and is not again.")
        self.remaining.evaluated(kept.seconds)
        result = kept.evaluation
        self.run.log(
            self.step,
            {**result.metrics(), "cost/tokens_forwarded": self.tokens_forwarded, "cost/seconds": self.train_seconds},
        )
        self.latest, self.evaluated = result, self.step
        self.base = self.base or result
        if self.best is not None:
            self.best.saw(self.step, result.metrics())
        self._write_rows()
        tokenization = self.setup.material.tokenization
        self.run.samples(self.step, [sample.as_row(tokenization) for sample in result.samples])
        self.run.answers(self.step, [answer.as_row() for answer in result.answers])
        self.run.going_on(**self._figures())

    def _write_rows(self) -> None:
        """A resumed run writes them anew: its checkpoint may lie before the evaluation that the folder has."""
        for name, evaluation in ((BASE, self.base), (LATEST, self.latest)):
            self.run.rows(name, [] if evaluation is None else evaluation.rows())

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the optimisation's tensors, as numbers, strings, small tensors and their
        containers."""
        return {
            **self.optimization.state(),
            ROWS: self.setup.material.digests(),
            "step": self.step,
            "evaluated": self.evaluated,
            "base": None if self.base is None else self.base.state(),
            "latest": None if self.latest is None else self.latest.state(),
            **({} if self.best is None else {"best": self.best.state()}),
            "wall_seconds": time.monotonic() - self.started,
            "tokens_forwarded": self.tokens_forwarded,
            "train_seconds": self.train_seconds,
            "random": self.world.all_gather(checkpoint.random_state()),
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`; from the start without one. Drops what the run folder holds beyond it."""
        if state is None:
            return self.run.rewind(-1, -1)
        self.optimization.restore(state, state["tensors"])
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.base, self.latest = (
            None if state[name] is None else Evaluation.from_state(state[name]) for name in ("base", "latest")
        )
        self.tokens_forwarded, self.train_seconds = state["tokens_forwarded"], state["train_seconds"]
        self.started -= state["wall_seconds"]
        if self.world.rank < len(state["random"]):  # there may have been fewer processes
            checkpoint.restore_random_state(state["random"][self.world.rank])
        self.run.rewind(self.step, self.evaluated)
        if lacking := self.run.lacking_rows(self.step):
            self.run.say(
                f"metrics.jsonl lacks the rows of {lacking} of the {self.step} steps so far; its plots and the "
                "comparison have them no more."
            )
        self._write_rows()
        self._restore_best(state.get("best"))
        self.run.say(f"Resumed at step {self.step} of {self.setup.max_steps}.")

    def _restore_best(self, state: dict[str, Any] | None) -> None:
        """Where the checkpoint of the best evaluation is gone, or the run that is continued kept none by this metric,
        the best is sought anew, and the run says so."""
        if self.best is None:
            return
        if state is not None and state["metric"] == self.best.metric and state["step"] is not None:
            kept = checkpoint.of_step(self.run.directory, state["step"])
            if self.world.broadcast(kept is not None):
                return self.best.restore(state)
        if self.latest is not None:
            self.run.say(f"The best {self.best.metric} is sought from step {self.evaluated} on; none before is kept.")
            self.best.saw(self.evaluated, self.latest.metrics())

    def _export(self) -> None:
        assert self.latest is not None
        made_of = self.config, self.setup, self.optimization, self.run.directory
        base = {} if self.base is None else self.base.metrics()
        export_last(*made_of, self.step, base, self.latest.metrics())
        if self.best is not None:
            export_best(*made_of, base, self.best)

    def _finish(self, status: str, error: str | None = None) -> None:
        self.run.finish(status, **self._figures(), error=error)

    def _figures(self) -> dict[str, Any]:
        """What the report and the summary say of the run so far."""
        base = self.base
        final = self.latest if self.evaluated > 0 else None  # that of step 0 is the base
        return {
            "steps": self.step,
            "evaluated": self.evaluated if self.evaluated >= 0 else None,
            "wall_seconds": time.monotonic() - self.started,
            "train_seconds": self.train_seconds,
            "tokens_forwarded": round(self.tokens_forwarded),
            "peak_memory_bytes": peak_memory_bytes(self.setup.device),
            "base": {} if base is None else base.metrics(),
            "final": {} if final is None else final.metrics(),
            "change": {} if base is None or final is None else final.change(base),
            "directions": self.setup.material.verification.directions,
            "best": None if self.best is None else self.best.summary(),
        }


def peak_memory_bytes(device: str) -> int:
    """Peak memory in bytes, of the CUDA device where the run is on one, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
