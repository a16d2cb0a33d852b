"""What a shell is told of ebft-sweep, and its --cfg."""

import sys

import pytest
import yaml

from ebft.cli.sweep import sweep
from ebft.config.schema import UserError


def suggested(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COMP_LINE", f"ebft-sweep method=sft {word}")
    assert sweep(["-sc", "query=bash"]) == 0
    return set(capsys.readouterr().out.split())


@pytest.mark.slow
def test_keys_of_the_sweep_and_of_its_runs_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(word: str) -> set[str]:
        return suggested(word, monkeypatch, capsys)

    assert {"sweep=", "sweep.", "seed=", "sampler="} <= found("s")
    assert "sweep.reference=" in found("sweep.re")
    assert "sweep=laptop_code_qa" in found("sweep=lap")
    assert found("sampler.st") == {"sampler.stride="}
    assert "data=jsonl" in found("data=j")


def test_the_script_to_install_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COMP_LINE", "ebft-sweep ")
    assert sweep(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.endswith("-F hydra_bash_completion ebft-sweep\n")


def test_cfg_prints_every_key_of_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--cfg", "job"], ["--cfg=job"], ["-c", "job"]):
        assert sweep([*flags, "sweep.dir=outputs/mine", "seed=0,1"]) == 0
        out = capsys.readouterr().out
        assert yaml.safe_load(out)["sweep"]["dir"] == "outputs/mine"
        assert out.endswith("# of the runs: seed=0,1\n")


def test_another_cfg_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--cfg hydra is no option of ebft-sweep; it has --cfg job\.$"):
        sweep(["--cfg", "hydra"])
