"""What is not on the hub, or not to be reached there, is said at once: libraries ask six times over half a minute."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from ebft.config.schema import UserError
from ebft.output import hub

NOT_HERE = r"a/b is no file or folder here, this machine has no copy of it, and the hub may not be asked \(HF_HUB"
ANSWER: Any = SimpleNamespace(headers={}, request=None)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.RepositoryNotFoundError("404", response=ANSWER),
            "model.path=a/b is no file or folder here, and no model of the hub that you may read; correct it, or log "
            "in.",
        ),
        (
            errors.GatedRepoError("403", response=ANSWER),
            "model.path=a/b is for those who have asked for it on the hub; ask, and log in here.",
        ),
        (
            errors.RevisionNotFoundError("404", response=ANSWER),
            "model.path=a/b has no revision old on the hub; correct it.",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_refusal_of_the_hub_is_one_sentence(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise error

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(UserError) as raised:
        hub.check_on_hub("a/b", "old", "model.path", "model")
    assert str(raised.value) == message
    assert asked == [("https://huggingface.co/a/b/resolve/old/config.json", 5.0)]


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is thrown is an error of httpx or of httpx2, whichever huggingface_hub speaks with: catching those of one
    left the other's as a traceback."""
    monkeypatch.setattr(hub, "hf_hub_url", lambda *_, **__: "http://127.0.0.1:1/a/b")  # where nobody answers
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(
        UserError, match=r"^model\.path=a/b is no file or folder here, and the hub cannot be reached \("
    ):
        hub.check_on_hub("a/b", None, "model.path", "model")


@pytest.mark.parametrize(
    "error",
    [errors.EntryNotFoundError("404"), errors.HfHubHTTPError("503", response=ANSWER)],
    ids=lambda error: type(error).__name__,
)
def test_what_a_library_may_know_better_passes(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set without a README, and a hub that is busy."""

    def answer(url: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr(hub, "get_hf_file_metadata", answer)
    hub.check_on_hub("a/b", None, "data.path", "dataset")


def test_what_is_no_name_on_the_hub_is_refused_without_asking_it() -> None:
    with pytest.raises(UserError, match=r"data\.path=a:b is no file or folder here, and no name on the hub"):
        hub.check_on_hub("a:b", None, "data.path", "dataset")


@pytest.mark.parametrize(
    ("error", "is_offline"),
    [(OSError("no route"), True), (errors.RepositoryNotFoundError("404", response=ANSWER), False)],
    ids=["no network", "an answer"],
)
def test_copies_on_this_machine_need_no_hub(
    error: Exception, is_offline: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network a model that was here took minutes: each of its files was asked for six times."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def refuse(url: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    hub.check_on_hub("a/b", None, "model.path", "model")
    assert (hub.constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"]) == (is_offline, str(int(is_offline)))
    assert bool(capsys.readouterr().err) == is_offline


def test_what_may_not_be_asked_for_and_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cure named was a config.json that was never there."""
    monkeypatch.setattr(hub, "is_offline_mode", lambda: True)
    with pytest.raises(UserError, match=NOT_HERE):
        hub.check_on_hub("a/b", None, "model.path", "model")
    hub.check_on_hub("a/b", None, "data.path", "dataset")  # of which `datasets` may know a copy
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    hub.check_on_hub("a/b", None, "model.path", "model")


def test_what_is_not_here_when_the_hub_did_not_answer_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE was to be unset by somebody who had not set it."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "is_offline_mode", lambda: hub.constants.HF_HUB_OFFLINE)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda path, *_, **__: "/cache" if path == "a/here" else None)

    def refuse(url: str, timeout: float) -> None:
        raise OSError("no route")

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    hub.check_on_hub("a/here", None, "model.path", "model")
    with pytest.raises(UserError, match=NOT_HERE + r".* or could not be reached; .* or see to the network\.$"):
        hub.check_on_hub("a/b", None, "features.path", "model")


def test_a_folder_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hub, "get_hf_file_metadata")
    hub.check_on_hub("/", None, "model.path", "model")
