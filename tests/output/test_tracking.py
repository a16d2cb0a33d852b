import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from ebft.config.schema import ProjectTrackerConfig, TrackerConfig, UserError, WandbTrackerConfig
from ebft.output import tracking
from ebft.output.tracking import answers, choose_mode, endpoint, start

WANDB = WandbTrackerConfig("wandb", project="ebft-test", group="g", run_name=None, also=[], entity=None, tags=["t"])
TRACKIO = ProjectTrackerConfig("trackio", project="ebft-test", group="g", run_name=None, also=["tensorboard"])


def test_no_tracker_keeps_nothing(tmp_path: Path) -> None:
    tracker = start(TrackerConfig("none"), tmp_path, {}, {})
    tracker.log(1, {"train/loss": 2.0})
    tracker.table("samples", 1, [{"context": "a"}], ["context"])
    tracker.finish(failed=True)
    assert tracker.run_ids == {}
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

    first = start(WANDB, run_folder, {"method": {"name": "sft"}, "password": "hush"}, {})
    assert sys.argv == words
    # which W&B records soon after, or not at all where a run is as short as this one
    assert seen == [["ebft-train", "hydra.job.env_set=***", "data.path=https://***@example.org/rows"]]
    first.log(3, {"train/loss": 2.5})
    first.table(
        "samples", 3, [{"context": "a", "reward": 0.5}, {"context": "b", "reward": 0.25}], ["context", "reward"]
    )
    first.finish(failed=False)
    (record,) = (run_folder / "wandb").glob("offline-run-*")
    assert first.notices == [
        f"W&B is offline because no API key is configured (wandb login); upload later with: wandb sync {record}"
    ]
    (table,) = record.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", "context", "reward"]
    assert content["data"] == [[3, "a", 0.5], [3, "b", 0.25]]
    written = [path.read_bytes() for path in (run_folder / "wandb").rglob("*") if path.is_file()]
    assert not any(b"hush" in content for content in written)

    resumed = start(WANDB, run_folder, {}, first.run_ids)
    resumed.finish(failed=True)
    assert resumed.run_ids == first.run_ids


class StandIn:
    """A module of a tracker, and its run or writer, that remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def init(self, **settings: Any) -> "StandIn":
        print("an announcement")
        self.calls.append((settings.pop("name"), settings))
        return self

    def SummaryWriter(self, folder: str) -> "StandIn":  # noqa: N802
        self.calls.append((folder,))
        return self

    def Table(self, columns: list[str], data: list[Any]) -> list[Any]:  # noqa: N802
        return [columns, data]

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, *values, *named.values()))


def test_several_trackers_get_the_same_and_trackio_goes_on_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackio, tensorboard = StandIn(), StandIn()
    monkeypatch.setitem(sys.modules, "trackio", trackio)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    first = start(TRACKIO, tmp_path / "run", {"seed": 0, "password": "hush"}, {})
    first.log(3, {"train/loss": 2.5})
    first.table("samples", 3, [{"context": "a|b", "reward": 0.5}], ["context", "reward"])
    first.finish(failed=True)
    assert capsys.readouterr().out == ""
    (name, settings), *calls = trackio.calls
    assert re.fullmatch(r"run-[0-9a-f]{4}", name)
    assert first.run_ids == {"trackio": name}
    assert (settings["project"], settings["group"], settings["config"]["password"]) == ("ebft-test", "g", "***")
    assert calls == [
        ("log", {"train/loss": 2.5}, 3),
        ("log", {"samples": [["context", "reward"], [["a|b", 0.5]]]}, 3),
        ("finish",),
    ]
    assert tensorboard.calls == [
        (str(tmp_path / "run" / "tensorboard"),),
        ("add_text", "config", "```yaml\nseed: 0\npassword: '***'\n```"),
        ("add_scalar", "train/loss", 2.5, 3),
        ("add_text", "samples", "| context | reward |\n| --- | --- |\n| a\\|b | 0.5 |\n", 3),
        ("close",),
    ]
    assert first.notices == [
        f"Trackio: {name} in project ebft-test; look at it with: trackio show",
        f"TensorBoard: tensorboard --logdir {tmp_path / 'run'}",
    ]
    start(TRACKIO, tmp_path / "run", {}, first.run_ids)
    assert trackio.calls[-1][0] == name


@pytest.mark.parametrize("missing", ["trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == missing else name)
    sentence = f"tracker={missing} needs {missing}, which is not installed; pip install 'ebft[{missing}]'."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        tracking.check(TRACKIO)


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
def test_settings_that_came_with_a_run_say_nothing_to_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """W&B reads ./wandb/settings: in a stranger's run folder it would have sent the user's key where they say."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text("[default]\nbase_url = http://127.0.0.1:1\n")
    monkeypatch.chdir(tmp_path)
    started: list[Any] = []
    monkeypatch.setattr(wandb, "init", started.append)
    for file in ("config.yaml", "metrics.jsonl"):
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=rf"/{folder}/settings came with a run and would tell W&B where to send"):
        start(WANDB, tmp_path / "out", {}, {})
    assert started == []
