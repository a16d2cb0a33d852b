"""Models by name: where they lie, and what is said where they were not fetched."""

from pathlib import Path

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import UserError
from ebft.models.loading import load_architecture
from ebft.models.named import TINY
from ebft.models.paths import model_path
from tests.helpers import architecture


@pytest.mark.slow
def test_a_model_that_was_fetched_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path))
    architecture().save_pretrained(tmp_path / "models" / "gemma3_270m")
    assert load_architecture(compose(["model=gemma3_270m"]).model).model_type == "llama"
    assert model_path("tiny", "model.path") == str(TINY)


@pytest.mark.parametrize("cache", ["", "nowhere"])
def test_a_model_that_was_not_fetched_is_refused(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBFT_CACHE", cache)
    with pytest.raises(UserError) as error:
        model_path("gemma3_270m", "model.path")
    assert str(error.value) == (
        "model.path=gemma3_270m is not on this machine; run make real NAME=gemma3_270m, or set "
        "model.path=google/gemma-3-270m to load the published one from the hub."
    )
