import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from ebft.config.schema import TrackerConfig, WandbTrackerConfig
from ebft.output import tracking
from ebft.output.tracking import answers, choose_mode, endpoint, start

WANDB = WandbTrackerConfig(name="wandb", project="ebft-test", entity=None, group="g", run_name=None, tags=["t"])


def test_no_tracker_keeps_nothing(tmp_path: Path) -> None:
    tracker = start(TrackerConfig("none"), tmp_path, {}, None)
    tracker.log(1, {"train/loss": 2.0})
    tracker.table("samples", 1, [{"context": "a"}], ["context"])
    tracker.finish(failed=True)
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_online_needs_a_key_and_a_server_that_answers() -> None:
    asked: list[tuple[str, int]] = []

    def probe(host: str, port: int) -> bool:
        asked.append((host, port))
        return host == "up.example"

    assert choose_mode(False, "https://up.example", probe) == ("offline", "no API key is configured (wandb login)")
    assert asked == []  # without a key nobody is asked
    assert choose_mode(True, "https://up.example", probe) == ("online", None)
    assert choose_mode(True, "https://down.example:8443", probe) == (
        "offline",
        "https://down.example:8443 does not answer",
    )
    assert asked == [("up.example", 443), ("down.example", 8443)]


@pytest.mark.parametrize(
    ("proxy", "bypass", "expected"),
    [
        (None, "", ("api.example", 443)),
        ("http://proxy.example:3128", "", ("proxy.example", 3128)),
        ("proxy.example:3128", "", ("proxy.example", 3128)),
        ("http://proxy.example:3128", "api.example", ("api.example", 443)),
    ],
)
def test_probe_goes_where_requests_go(
    monkeypatch: pytest.MonkeyPatch, proxy: str | None, bypass: str, expected: tuple[str, int]
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", bypass)
    if proxy is not None:
        monkeypatch.setenv("https_proxy", proxy)
    assert endpoint("https://api.example") == expected


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_probe_of_a_server(server: int) -> None:
    assert answers("127.0.0.1", server)


def test_probe_of_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert not answers("127.0.0.1", port)


def test_probe_gives_up_on_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's time limit does not cover looking the name up, which can take half a minute without a network."""
    released = threading.Event()

    def silent(*_: object, **__: object) -> None:
        released.wait(10)
        raise OSError

    monkeypatch.setattr(tracking, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "create_connection", silent)
    started = time.monotonic()
    assert not answers("api.example", 443)
    assert time.monotonic() - started < 5
    released.set()


@pytest.mark.slow
def test_wandb_works_offline_inside_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    run_folder = tmp_path / "run"
    run_folder.mkdir()

    words = ["ebft-train", "hydra.job.env_set={HF_TOKEN: hush}", "data.path=https://me:hu@sh/hush@example.org/rows"]
    monkeypatch.setattr(sys, "argv", words)
    seen, init = [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **settings: (seen.append(sys.argv), init(**settings))[1])

    first = start(WANDB, run_folder, {"method": {"name": "sft"}, "password": "hush"}, None)
    assert sys.argv == words
    # which W&B records soon after, or not at all where a run is as short as this one
    assert seen == [["ebft-train", "hydra.job.env_set=***", "data.path=https://***@example.org/rows"]]
    first.log(3, {"train/loss": 2.5})
    first.table(
        "samples", 3, [{"context": "a", "reward": 0.5}, {"context": "b", "reward": 0.25}], ["context", "reward"]
    )
    first.finish(failed=False)
    assert first.run_id is not None
    (record,) = (run_folder / "wandb").glob("offline-run-*")
    assert (
        first.notice
        == f"W&B is offline because no API key is configured (wandb login); upload later with: wandb sync {record}"
    )
    (table,) = record.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", "context", "reward"]
    assert content["data"] == [[3, "a", 0.5], [3, "b", 0.25]]
    written = [path.read_bytes() for path in (run_folder / "wandb").rglob("*") if path.is_file()]
    assert not any(b"hush" in content for content in written)

    resumed = start(WANDB, run_folder, {}, first.run_id)
    resumed.finish(failed=True)
    assert resumed.run_id == first.run_id
