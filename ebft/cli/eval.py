"""`ebft-eval`: models on held-out data, from overrides on the command line to a table.

A run folder brings its configuration along (`brought.py`), and what stands on the command line wins. So `ebft-eval
model.path=RUN` repeats the run's own final evaluation, and `data=...` behind it asks the same model about other data.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ebft.cli.refusals import as_user_error, check_flags, one_sentence, sigterm_as_interrupt
from ebft.output.streams import end_if_cut, outlive_console

TAKEN = ("seed", "model", "data", "features", "sampler", "eval", "sandbox")  # of a run's configuration
HELP = """\
ebft-eval model.path=MODEL [GROUP=OPTION ...] [KEY=VALUE ...]
ebft-eval 'models=[base,MODEL,...]' [GROUP=OPTION ...] [KEY=VALUE ...]

Evaluates models on held-out data: cross-entropy, feature-matching loss by horizon, answers to questions where data.task
says how to judge them.
MODEL is a run folder of ebft-train, one of its checkpoints, a folder in Hugging Face format or a hub id; base is the
model that a run started from.
A run folder brings its configuration along (data, features, sampler, eval), and what stands on the command line
replaces it.
Several models are asked about the same documents with the same draws; the table ends with paired differences to the
first.

Writes eval.json, eval.md, plots/, samples.jsonl and answers.jsonl into hydra.run.dir.

A YAML file of KEY: VALUE lines may stand among the arguments.

Examples:
  ebft-eval model.path=outputs/mine
  ebft-eval model.path=outputs/mine eval.num_documents=480 eval.n_samples=8
  ebft-eval 'models=[base,outputs/sft,outputs/ebft]' tracker=wandb
  ebft-eval model.path=outputs/mine data=code_qa eval.num_questions=500

Exit codes: 0 done, 1 some model could not be evaluated, 2 a mistake on the command line.
Every key with its value: ebft-eval --cfg job"""


def main() -> None:
    outlive_console()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(HELP)
        end_if_cut()
        return
    from ebft.cli.from_file import with_files
    from ebft.cli.own import with_config_dirs
    from ebft.cli.targets import restrict

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    restrict()
    try:
        with one_sentence(), sigterm_as_interrupt():
            sys.argv[1:] = with_run(with_config_dirs(with_files(sys.argv[1:])))
            shows_only = check_flags("ebft-eval", sys.argv[1:])
            with as_user_error(sys.argv[1:], is_evaluation=True):
                hydra.main(version_base="1.3", config_path="pkg://ebft.conf", config_name="eval")(_run)()
            if shows_only:
                end_if_cut()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def with_run(arguments: list[str]) -> list[str]:
    """The command line with the configuration of the run folder that it names in front. Raises UserError for one that
    cannot be read, or that names code."""
    from ebft.cli.brought import of_run
    from ebft.cli.overrides import as_typed
    from ebft.cli.own import beside_overrides
    from ebft.config.quoting import literal

    arguments = as_typed(arguments)
    named, models = _given(arguments, "model.path"), _given(arguments, "models")
    folder = next((run for run in map(_run_folder, [*named, *models]) if run), None)
    if folder is None:
        return arguments
    if named and _run_folder(named[0]):  # the run's own model is what is evaluated, its base what it is held against
        arguments = [argument for argument in arguments if not argument.startswith("model.path=")]
        arguments += [] if models else [f"models={literal(named)}"]
    return beside_overrides(arguments, of_run(folder, TAKEN).overrides(arguments))


def _given(arguments: list[str], key: str) -> list[str]:
    """The texts that a command line gives for a key, the last time that it does."""
    from ebft.cli.overrides import value_of

    last = [argument for argument in arguments if argument.startswith(f"{key}=")][-1:]
    with as_user_error(last):
        values = [value_of(argument) for argument in last]
    return [str(item) for value in values for item in (value if isinstance(value, list) else [value])]


def _run_folder(source: str) -> Path | None:
    """The run folder that is `source`, or that it is a checkpoint of."""
    path = Path(source)
    candidates = [path, path.parent.parent] if source else []
    return next(
        (
            folder
            for folder in candidates
            if (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()
        ),
        None,
    )


def _run(cfg: DictConfig) -> None:
    from ebft.cli.compose import to_config
    from ebft.cli.launch import remove_created_folders
    from ebft.cli.sources import check_sources
    from ebft.cli.uncollected import uncollected
    from ebft.config.schema import EvaluateConfig
    from ebft.run.admission import check_evaluation

    with one_sentence():  # here too: Hydra would announce an exception that leaves its task
        config, run_dir = to_config(cfg), Path(HydraConfig.get().runtime.output_dir)
        assert isinstance(config, EvaluateConfig)
        try:
            check_evaluation(run_dir, config)
            check_sources(config)
            with uncollected():
                import transformers.modeling_utils  # noqa: F401, which loading a model would import

                from ebft.train.evaluate_models import evaluate

            failures = evaluate(config, run_dir)
        except BaseException:  # whatever it is, no empty folder stays behind
            remove_created_folders()
            raise
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
