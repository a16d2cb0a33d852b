"""`ebft-train`: one run, from overrides on the command line to a run folder.

Hydra composes, `CheckFirst` refuses what cannot work before a folder exists, and `train` is imported only once
everything is in order, so `--help`, `--cfg`, shell completion and refusals never load torch. What only a run needs is
imported where it is used, for the same reason.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ebft.cli.refusals import as_user_error, check_flags, one_sentence, sigterm_as_interrupt
from ebft.output.streams import end_if_cut, outlive_console
from ebft.parallel.launched import num_processes


def main() -> None:
    """Exit codes: 0 done, 1 a failure with its traceback, 2 a user's mistake in one sentence, 130 interrupted."""
    outlive_console()
    if {"--help", "-h"} & set(sys.argv[1:]):
        from ebft.cli.help import help_text

        if os.environ.get("RANK", "0") == "0":
            print(help_text())
            end_if_cut()
        return
    from ebft.cli.from_file import with_files
    from ebft.cli.overrides import as_typed
    from ebft.cli.own import with_config_dirs
    from ebft.cli.targets import restrict

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    restrict()
    try:
        with one_sentence(), sigterm_as_interrupt():
            sys.argv[1:] = as_typed(with_config_dirs(with_files(sys.argv[1:])))
            if num_processes(os.environ) > 1:
                from ebft.cli.processes import take_part

                take_part(_compose_and_run)
            else:
                _compose_and_run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _compose_and_run() -> None:
    from ebft.cli.resuming import with_run

    with one_sentence():
        sys.argv[1:] = with_run(sys.argv[1:])
        shows_only = check_flags("ebft-train", sys.argv[1:])
    with one_sentence(), as_user_error(sys.argv[1:]):
        hydra.main(version_base="1.3", config_path="pkg://ebft.conf", config_name="train")(_run)()
    if shows_only:
        end_if_cut()


def _run(cfg: DictConfig) -> None:
    from ebft.cli.compose import to_config
    from ebft.cli.launch import remove_created_folders
    from ebft.cli.resuming import command
    from ebft.cli.sources import check_sources
    from ebft.cli.uncollected import uncollected
    from ebft.output.files import was_alone
    from ebft.output.visible import visible
    from ebft.run.admission import check

    with one_sentence():  # here too: Hydra would announce an exception that leaves its task
        config, run_dir, is_saved = to_config(cfg), Path(HydraConfig.get().runtime.output_dir), False
        try:
            check(run_dir, config)
            check_sources(config)
            if config.plan_only:
                with uncollected():
                    from ebft.train.preview import preview

                    preview(config, run_dir)  # little else than further imports
                remove_created_folders()
                end_if_cut()
                return
            from ebft.cli.processes import perform

            is_saved = perform(config, run_dir) == "interrupted"
            if is_saved:
                # for whoever started this: the run is saved, not done, and no further job of a grid starts
                raise KeyboardInterrupt
        except BaseException as error:
            is_ours = is_saved or was_alone(run_dir)  # not another process's, for which this one has waited
            if isinstance(error, KeyboardInterrupt) and is_ours and (run_dir / "config.yaml").is_file():
                print(visible(command(config, run_dir, HydraConfig.get().overrides.task)), file=sys.stderr)
            remove_created_folders()  # empty ones: of a refusal, or of a signal while models load
            raise


if __name__ == "__main__":
    main()
