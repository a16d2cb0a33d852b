"""`ebft-train my.yaml`: a file stands for what it would be typed as, and may do less."""

from pathlib import Path

import pytest

from ebft.cli.compose import compose
from ebft.cli.from_file import with_files
from ebft.cli.sweep_settings import settings
from ebft.config.schema import TrainConfig, UserError
from tests.cli.conftest import Launcher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(
        "method: sft\ndata: translation\nseed: 3\ntrainer:\n  max_steps: 7\noptimizer.lr: 3e-4\n"
        "data.end_token: '${seed} it''s, here'\neval.horizons: [1, 2]\n"
    )
    return path


def composed(*arguments: str) -> TrainConfig:
    return compose(with_files(arguments))


def test_a_file_is_what_it_would_be_typed_as(file: Path) -> None:
    """Texts are texts, interpolations too, and a number as YAML 1.1 misses it is one."""
    config = composed(str(file))
    assert (config.method.name, config.data.source, config.seed, config.trainer.max_steps) == (
        "sft",
        "translation",
        3,
        7,
    )
    assert (config.optimizer.lr, config.eval.horizons) == (3e-4, [1, 2])
    assert config.data.end_token == "${seed} it's, here"


def test_the_command_line_replaces_it(file: Path) -> None:
    config = composed("trainer.max_steps=9", str(file), "data=code_qa")
    assert (config.trainer.max_steps, config.data.source, config.data.end_token) == (9, "code_qa", None)
    assert config.seed == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sampler.n_sample: 8", "sampler.n_sample is not a key of the configuration; did you mean sampler.n_samples?"),
        (
            "method: sft\nmethod.diversity_coef: 1",
            "method.diversity_coef belongs to method=ebft; choose that or leave the key out.",
        ),
        (
            "sandbox.allow_code_execution: true",
            "my.yaml has sandbox.allow_code_execution=true, which is yours to type; take it out of the file and add "
            "sandbox.allow_code_execution=true.",
        ),
        (
            "method.reward: mine.py:reward",
            'my.yaml has method.reward="mine.py:reward", which is yours to type; take it out of the file and add '
            'method.reward="mine.py:reward".',
        ),
        (
            "hydra: {searchpath: [file:///tmp]}",
            "my.yaml has hydra.searchpath, and a file sets none of Hydra's keys but hydra.run.dir, hydra.sweep.dir, "
            "hydra.sweep.subdir.",
        ),
        (
            "- method",
            "my.yaml holds no keys and values; write KEY: VALUE lines, as they stand on a command line with =.",
        ),
    ],
)
def test_it_is_refused_as_a_command_line_is(launch: Launcher, text: str, sentence: str) -> None:
    (launch.folder / "my.yaml").write_text(text)
    outcome = launch("my.yaml")
    assert (outcome.code, outcome.err) == (2, f"{sentence}\n")
    assert launch.files() == ["my.yaml"]


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"^nowhere\.yaml cannot be read \(No such file or directory\)"):
        with_files(["nowhere.yaml"])


def test_a_run_s_own_config_is_that_run_again(launch: Launcher) -> None:
    """Its options are chosen, and the permission that its command line gave is asked for again."""
    typed = ["method=rlvr", "model=debug", "data=stdlib", "trainer.max_steps=3", "+data@eval.sets.old=code_qa"]
    import yaml

    from ebft.config.identity import resolved

    first = compose([*typed, "sandbox.allow_code_execution=true"])
    (launch.folder / "config.yaml").write_text(yaml.safe_dump(resolved(first)))
    again = launch("config.yaml", "hydra.run.dir=again", "sandbox.allow_code_execution=true")
    assert again.err == ""
    assert launch.jobs[0][0] == first


def test_a_sweep_reads_it_for_its_runs_and_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sweep.dir: /somewhere\nsweep: laptop_code_qa\n")
    config = settings(with_files([str(path), "sweep.reference=ebft"]))
    assert (config.sweep.dir, config.sweep.name, config.sweep.reference) == ("/somewhere", "laptop_code_qa", "ebft")
