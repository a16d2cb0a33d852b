"""From grids to jobs: names, cells, what starts from what, and what is refused."""

import shlex
from pathlib import Path

import pytest

from ebft.cli.planning import Planner
from ebft.config.schema import UserError
from ebft.sweep.jobs import Job
from tests.sweep.helpers import grid

STARTS = [
    "model.path=run:a",
    "++model.path=run:a",
    "model.path='run:a'",
    'model.path="run:a"',
    "model.path=choice(run:a,tiny)",
]


def jobs(command_line: str, directory: Path = Path("out"), **settings: object) -> list[Job]:
    return Planner(directory, grid(**settings)).jobs(shlex.split(command_line))


def refusal(command_line: str, **settings: object) -> str:
    with pytest.raises(UserError) as refused:
        jobs(command_line, **settings)
    return str(refused.value)


@pytest.mark.slow
def test_a_grid_s_jobs() -> None:
    first, second, third, fourth = jobs("seed=0,1", grid=["method=sft,ebft"])
    assert [job.keys for job in (first, fourth)] == [{"method": "sft", "seed": "0"}, {"method": "ebft", "seed": "1"}]
    assert (second.overrides, third.seed, third.variant, third.needs) == (("method=sft", "seed=1"), 0, "", None)
    assert first.name.startswith("sft-code_qa-")
    assert len({job.name for job in (first, second, third, fourth)}) == 4


@pytest.mark.slow
def test_a_name_is_of_what_a_run_computes_not_of_where_and_how() -> None:
    (plain,) = jobs("method=sft")
    for same in (
        "tracker=wandb",
        "trainer.micro_batch_size=2",
        "trainer.device=cpu",
        "optimizer.lr=1e-4",
        "seed=0",
        "trainer.checkpoint_every_steps=7",
    ):
        assert jobs(f"method=sft {same}")[0].name == plain.name, same
    for other in (
        "seed=1",
        "optimizer.lr=2e-4",
        "trainer.max_steps=41",
        "data.path=x data=jsonl",
        "eval.num_questions=3",
    ):
        assert jobs(f"method=sft {other}")[0].name != plain.name, other


@pytest.mark.slow
def test_variants_are_grids_with_names() -> None:
    planned = jobs("seed=0,1", variants={"plain": ["method=sft"], "rates": ["method=ebft", "optimizer.lr=1e-4,1e-5"]})
    assert [(job.variant, job.keys) for job in planned[:3]] == [
        ("plain", {"seed": "0"}),
        ("plain", {"seed": "1"}),
        ("rates", {"optimizer.lr": "0.0001", "seed": "0"}),
    ]
    assert len(planned) == 6


@pytest.mark.slow
def test_a_grid_may_take_keys_away() -> None:
    (job,) = jobs("seed=0", grid=["method=sft", "eval=forgetting", "~eval.sets.translation"])
    assert job.config is not None
    assert list(job.config.eval.sets) == ["code_qa"]


@pytest.mark.slow
def test_a_run_may_start_from_another_s_model(tmp_path: Path) -> None:
    """It is planned whatever their order, and its name knows what it starts from but not where that lies."""
    variants = {"on": ["method=ebft", "model.path=run:warm"], "warm": ["method=sft", "optimizer.lr=1e-4,1e-5"]}
    with pytest.raises(
        UserError, match=r"starts from run:warm, which has 2 runs of seed 0 on this data; it must have one\."
    ):
        jobs("seed=0,1", variants=variants)
    variants["warm"].pop()
    on, _, warm, _ = jobs("seed=0,1", tmp_path, variants=variants)
    assert on.needs == warm.name
    assert (on.settings["model.path"], on.settings["seed"], warm.settings["model.path"]) == (
        f"run:{warm.name}",
        0,
        "tiny",
    )
    assert on.overrides == ("method=ebft", f'model.path="{tmp_path}/runs/{warm.name}/model"', "seed=0")
    elsewhere = jobs("seed=0,1", tmp_path / "elsewhere", variants=variants)[0]
    assert elsewhere.name == on.name
    assert elsewhere.overrides != on.overrides
    changed = jobs("seed=0,1 optimizer.eps=1e-7", tmp_path, variants=variants)[0]
    assert changed.name != on.name


@pytest.mark.slow
def test_runs_tracked_by_wandb_form_a_group() -> None:
    assert jobs("method=sft tracker=wandb", name="mine")[0].overrides[-1] == 'tracker.group="mine"'
    assert jobs("method=sft tracker=wandb tracker.group=theirs", name="mine")[0].overrides[-1] == "tracker.group=theirs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command_line", "settings", "sentence"),
    [
        ("", {}, "sweep.grid is empty; name what runs differ in, as in: ebft-sweep method=sft,ebft seed=0,1."),
        (
            "",
            {"variants": {"a": []}},
            "sweep.variants.a is empty; name what runs differ in, as in: ebft-sweep method=sft,ebft seed=0,1.",
        ),
        (
            "seed=0,1 sampler.n_sample=1",
            {},
            "seed=0 sampler.n_sample=1 cannot run: sampler.n_sample is not a key of the configuration; did you mean",
        ),
        (
            "method=sft,rlvr data=swallow_code",
            {},
            "method=rlvr data=swallow_code cannot run: method=rlvr needs a verifier",
        ),
        ("method=sft,dpo", {}, "method=dpo cannot run: method=dpo does not exist; the options are ebft, rlvr, sft."),
        (
            "seed=0,1",
            {"variants": {"a": ["optimizer.lr=-1"]}},
            "sweep.variants.a: optimizer.lr=-1 seed=0 cannot run: optimizer.lr=-1",
        ),
        (
            "seed=0 hydra.run.dir=x",
            {},
            "hydra.run.dir=x is for ebft-sweep to set; leave it out, and choose the folder with sweep.dir.",
        ),
        (
            "resume=never",
            {},
            "resume=never is for ebft-sweep to set; leave it out, and choose the folder with sweep.dir.",
        ),
        (
            "seed=0 plan_only=true",
            {},
            "seed=0 plan_only=true cannot run: plan_only=true trains nothing; leave it out, and plan a sweep with "
            "mode=plan.",
        ),
        (
            "+experiment=scaling",
            {},
            "+experiment=scaling cannot run: plan_only=true trains nothing; leave it out, and plan a sweep with "
            "mode=plan.",
        ),
        (
            "optimizer.lr=1e-4,0.0001",
            {},
            "Two runs of the grid are the same, optimizer.lr=0.0001 and optimizer.lr=0.0001; leave one out",
        ),
        (
            "trainer.device=cpu,cuda",
            {},
            "Two runs of the grid are the same, trainer.device=cpu and trainer.device=cuda; leave one out",
        ),
        (
            "seed=0",
            {"variants": {"a": ["model.path=run:b"]}},
            "sweep.variants.a starts from run:b, which is no variant; there are a.",
        ),
        (
            "seed=0",
            {"variants": {"a": ["model.path=run:b"], "b": ["model.path=run:a"], "c": []}},
            "sweep.variants: a, b start from one another; one must start from a model.",
        ),
        *(
            (
                f"{plus}model.path=other seed=0",
                {"variants": {"a": ["method=sft"], "b": ["model.path=run:a"]}},
                f"{plus}model.path=other would replace model.path=run:a of sweep.variants.b as well; write it into "
                "sweep.grid, or leave it out.",
            )
            for plus in ("", "++")
        ),
        *(
            ("seed=0", {"variants": {"b": [start]}}, "sweep.variants.b starts from run:a, which is no variant")
            for start in STARTS
        ),
        ("model.path=run:a", {}, "sweep.grid starts from run:a, which is no variant"),
    ],
)
def test_what_cannot_be_planned(command_line: str, settings: dict[str, object], sentence: str) -> None:
    assert refusal(command_line, **settings).startswith(sentence)
