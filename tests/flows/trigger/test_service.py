"""The trigger as a whole: from files that appear to runs, through the command, its health, metrics and messages."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import Pipeline
from trigger_fakes import Clock, FakeService, FakeTargets

from tomopipe.flows.local.run_store import RunStore
from tomopipe.flows.trigger.backends import LocalBackend
from tomopipe.flows.trigger.checker import Checker
from tomopipe.flows.trigger.config import EmailConfig, LocalConfig, NotifyConfig, TriggerConfig, WebhookConfig
from tomopipe.flows.trigger.entry import Entry, identify
from tomopipe.flows.trigger.ledger import Ledger
from tomopipe.flows.trigger.monitoring import tell_systemd
from tomopipe.flows.trigger.notify import Notifier, send_email, send_webhook
from tomopipe.flows.trigger.observation import Observation
from tomopipe.flows.trigger.service import Trigger
from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.simulation import SimulationSettings, simulate_scan

SMALL = SimulationSettings(columns=64, rows=16, angles=60, n_flats=3, n_darks=2)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(SMALL, tmp_path_factory.mktemp("scan") / "foam.h5")


def config_of(tmp_path: Path, **sections: Any) -> TriggerConfig:
    values = {
        "format": "tomopipe-trigger/1",
        "ledger": str(tmp_path / "state" / "ledger.sqlite"),
        "rules": [{"name": "all", "deployment": "polaris"}],
        "finished": {"stable_s": 0.2},
        **sections,
    }
    return TriggerConfig.model_validate(values)


class PushSource:
    """A source that reports what the test says."""

    name = "push"

    def __init__(self) -> None:
        self.report: Callable[[Observation], None] | None = None
        self.stopped = False

    def start(self, report: Callable[[Observation], None]) -> None:
        self.report = report

    def stop(self) -> None:
        self.stopped = True

    def health(self) -> dict[str, Any]:
        return {"alive": True, "last_event": None, "problem": None}


@contextmanager
def running(trigger: Trigger) -> Iterator[None]:
    ready = threading.Event()
    thread = threading.Thread(target=trigger.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        trigger.stop()
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.05)


def test_a_finished_scan_is_started_and_a_broken_one_is_not(tmp_path: Path, scan: Path) -> None:
    health = tmp_path / "health.json"
    config = config_of(
        tmp_path,
        monitoring={"health_file": str(health), "interval_s": 0.2},
        finished={"stable_s": 0.2, "patience_s": 0.5},
    )
    source, service = PushSource(), FakeService(Clock(time.time()))
    trigger = Trigger(config, [source], FakeTargets(service))
    broken = tmp_path / "broken.h5"
    broken.write_bytes(scan.read_bytes()[:20_000])
    with running(trigger):
        assert source.report is not None
        for _ in range(3):
            source.report(Observation(scan, "push", "candidate"))
        source.report(Observation(broken, "push", "finished"))
        until(lambda: trigger.ledger.counts()["submitted"] == 1 and trigger.ledger.counts()["ignored"] == 1)
        until(lambda: health.exists() and json.loads(health.read_text())["scans"]["submitted"] == 1)
        assert json.loads(health.read_text())["ok"] is True
    assert source.stopped
    assert [run.scan for run in service.runs] == [str(scan)]
    assert json.loads(health.read_text())["ok"] is False, "a trigger that was stopped is not well"
    [entry] = trigger.ledger.list_entries(9, ("ignored",))
    assert entry.path == str(broken) and entry.reason


def test_a_growing_file_is_waited_for(tmp_path: Path, scan: Path) -> None:
    clock, steady = Clock(), Clock(0.0)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock)
    config = config_of(tmp_path, finished={"stable_s": 5, "patience_s": 20, "check_writers": False})
    people = Notifier(NotifyConfig(), senders=[])
    checker = Checker(ledger, config, people, clock, steady)
    growing = tmp_path / "growing.h5"
    content = scan.read_bytes()

    def look(seconds: float) -> str:
        for _ in range(int(seconds)):
            clock.now += 1
            steady.now += 1
            checker.step()
        return ledger.get(1).state

    for share in (0.2, 0.5, 0.9):
        growing.write_bytes(content[: int(share * len(content))])
        ledger.observe(Observation(growing, "files", "candidate"), identify(growing))
        assert look(4) == "waiting"
    assert look(10) == "waiting", "it rests, and is no scan yet"
    growing.write_bytes(content)
    assert look(4) == "waiting"
    assert look(6) == "ready"
    assert ledger.get(1).metadata


def test_a_bad_file_that_is_written_to_again_is_taken_up_without_a_source(tmp_path: Path, scan: Path) -> None:
    clock, steady = Clock(), Clock(0.0)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock)
    config = config_of(tmp_path, finished={"stable_s": 1, "patience_s": 5, "check_writers": False})
    told = Notifier(NotifyConfig(), senders=[])
    checker = Checker(ledger, config, told, clock, steady)
    late = tmp_path / "late.h5"
    late.write_bytes(b"")
    ledger.observe(Observation(late, "epics", "finished"), identify(late))
    states = []
    for second in range(200):
        clock.now += 1
        steady.now += 1
        checker.step()
        states.append(ledger.list_entries(1)[0].state)
        if second == 50:
            assert states[-1] == "ignored"
            late.write_bytes(scan.read_bytes())
    assert states[-1] == "ready"


def test_a_file_that_never_comes_is_given_up_after_a_day(tmp_path: Path) -> None:
    clock, steady = Clock(), Clock(0.0)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock)
    checker = Checker(ledger, config_of(tmp_path), Notifier(NotifyConfig(), senders=[]), clock, steady)
    ledger.observe(Observation(tmp_path / "none.h5", "epics", "finished"), None)
    for _ in range(23):
        checker.step()
        clock.now += 3600
    assert ledger.get(1).state == "waiting"
    clock.now += 3 * 3600
    checker.step()
    assert ledger.get(1).state == "ignored"


def test_a_ledger_that_cannot_be_written_is_told_to_the_source_and_shown(tmp_path: Path, scan: Path) -> None:
    source = PushSource()
    trigger = Trigger(config_of(tmp_path), [source], FakeTargets(FakeService(Clock())))
    with running(trigger):
        trigger.ledger.path = tmp_path / "scan-is-no-folder" / "ledger.sqlite"
        (tmp_path / "scan-is-no-folder").write_text("")
        assert source.report is not None
        with pytest.raises(TomopipeError):
            source.report(Observation(scan, "push", "candidate"))
        until(lambda: bool(trigger.health()["problems"]))
        assert trigger.health()["ok"] is False
        trigger.ledger.path = tmp_path / "state" / "ledger.sqlite"
        source.report(Observation(scan, "push", "candidate"))
        until(lambda: not trigger.health()["problems"])
        until(lambda: trigger.ledger.counts()["submitted"] == 1)


def test_metrics_are_served_on_this_machine(tmp_path: Path, scan: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = PushSource()
    trigger = Trigger(
        config_of(tmp_path, monitoring={"metrics_port": port}), [source], FakeTargets(FakeService(Clock()))
    )
    with running(trigger):
        assert source.report is not None
        source.report(Observation(scan, "push", "candidate"))
        until(lambda: trigger.ledger.counts()["submitted"] == 1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'tomopipe_trigger_scans{state="submitted"} 1.0' in text
        assert 'tomopipe_trigger_observations_total{came_to="new"} 1.0' in text
        assert 'tomopipe_trigger_source_alive{source="push"} 1.0' in text
        assert 'tomopipe_trigger_worker_alive{worker="submits"} 1.0' in text
        with pytest.raises(InputError, match="give another port"):
            Trigger(config_of(tmp_path, monitoring={"metrics_port": port}), [], FakeTargets(FakeService(Clock()))).run()


def test_systemd_is_told_where_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_systemd("READY=1", "STATUS=watching")
        assert channel.recv(100) == b"READY=1\nSTATUS=watching"
    tell_systemd("WATCHDOG=1")


# Messages


def test_people_are_told_once_until_a_matter_is_settled() -> None:
    clock = Clock(0.0)
    sent: list[tuple[str, str]] = []
    people = Notifier(NotifyConfig(interval_s=60), clock, [lambda subject, text: sent.append((subject, text))])
    people.tell("a", "no login")
    people.tell("a", "no login")
    people.tell("b", "scan 7 failed")
    assert people.send_due()
    assert sent[0][1] == "no login\n\nscan 7 failed" and "2 messages" in sent[0][0]
    people.tell("b", "scan 8 failed")
    clock.now = 59
    assert not people.send_due()
    clock.now = 61
    people.settled("a")
    people.tell("a", "no login")
    assert people.send_due()
    assert sent[1][1] == "scan 8 failed\n\nno login"


def test_a_server_that_refuses_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(subject: str, text: str) -> None:
        raise OSError("refused")

    sent: list[str] = []
    people = Notifier(NotifyConfig(), Clock(0.0), [fail, lambda subject, text: sent.append(text)])
    people.tell("a", "no login")
    assert people.send_due()
    assert sent == ["no login"]
    assert "people cannot be told" in caplog.text


def test_a_flood_of_messages_is_shortened() -> None:
    sent: list[str] = []
    people = Notifier(NotifyConfig(), Clock(0.0), [lambda subject, text: sent.append(text)])
    for number in range(1000):
        people.tell(f"{number}", f"scan {number} failed")
    people.send_due()
    assert sent[0].count("failed") == 100 and "and 900 more" in sent[0]


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        in_data = False
        for line in self.rfile:
            if in_data:
                self.server.lines.append(line.decode().rstrip())  # type: ignore[attr-defined]
                if line == b".\r\n":
                    in_data = False
                    self.wfile.write(b"250 ok\r\n")
            elif line.upper().startswith(b"DATA"):
                in_data = True
                self.wfile.write(b"354 go\r\n")
            elif line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


def test_an_email_is_sent() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), _Mail) as server:
        server.lines = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        config = EmailConfig(
            host="127.0.0.1",
            port=server.server_address[1],
            security="none",
            sender="a@b.org",
            to=["c@d.org", "e@f.org"],
        )
        send_email(config, "tomopipe trigger: 1 message", "no login")
        server.shutdown()
        thread.join()
        assert "Subject: tomopipe trigger: 1 message" in server.lines  # type: ignore[attr-defined]
        assert "To: c@d.org, e@f.org" in server.lines and "no login" in server.lines  # type: ignore[attr-defined]


def test_a_webhook_is_posted_by_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = WebhookConfig(url="env:TOMOPIPE_TEST_HOOK")
    monkeypatch.delenv("TOMOPIPE_TEST_HOOK", raising=False)
    with pytest.raises(ValueError, match="TOMOPIPE_TEST_HOOK holds no https"):
        send_webhook(config, "s", "t")
    monkeypatch.setenv("TOMOPIPE_TEST_HOOK", "http://127.0.0.1:1/secret")
    with pytest.raises(ValueError, match="holds no https") as caught:
        send_webhook(config, "s", "t")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("TOMOPIPE_TEST_HOOK", "https://127.0.0.1:1/secret")
    with pytest.raises(OSError) as refused:
        send_webhook(config, "s", "t")
    assert "secret" not in str(refused.value)


# Local runs


def local_entry(scan: Path, output: Path, key: str, **plan: Any) -> Entry:
    ledger = Ledger(output / "ledger.sqlite")
    number = ledger.observe(Observation(scan, "files", "finished"), identify(scan)).number
    assert number is not None
    entry = ledger.get(number)
    return Entry(**{**vars(entry), "scan_id": "foam", "key": key, "plan": {"parameters": {}, **plan}})


KEY = "11111111-2222-5333-8444-555555555555"


def test_a_local_run_that_cannot_begin_says_why(tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    backend = LocalBackend(LocalConfig(output=tmp_path / "results"), tmp_path / "runs")
    assert backend.find(KEY) is None
    (tmp_path / "results").write_text("a file, where a folder should be")
    assert backend.submit(local_entry(scan, tmp_path / "state", KEY), KEY) == KEY
    assert backend.status(KEY).state == "starting"
    until(lambda: backend.status(KEY).state != "starting", 60)
    status = backend.status(KEY)
    assert status.state == "failed" and "is a file; give a folder" in str(status.reason)


def test_a_local_run_whose_process_was_killed_at_once_never_began(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    backend = LocalBackend(LocalConfig(output=tmp_path / "results"), tmp_path / "runs")
    backend.submit(local_entry(scan, tmp_path / "state", KEY), KEY)
    [child] = backend._children.values()
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: backend.status(KEY).state == "never started")
    assert backend.find(KEY) is None


def test_a_second_trigger_does_not_start_what_the_first_is_starting(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    config = LocalConfig(output=tmp_path / "results")
    first, second = LocalBackend(config, tmp_path / "runs"), LocalBackend(config, tmp_path / "runs")
    entry = local_entry(scan, tmp_path / "state", KEY)
    first.submit(entry, KEY)
    found = second.find(KEY)
    assert found is not None and found.state in ("starting", "active")
    assert second.submit(entry, KEY) == KEY
    assert second._children == {}
    for child in first._children.values():
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.mark.slow
def test_from_a_file_that_appears_to_metrics_with_the_real_command(tmp_path: Path, scan: Path) -> None:
    """The whole way: files appear, `tomopipe watch` is killed and started again, each scan has one run in the store."""
    data = tmp_path / "data"
    data.mkdir()
    settings = {
        "format": "tomopipe-trigger/1",
        "ledger": str(tmp_path / "state" / "ledger.sqlite"),
        "sources": {
            "files": [{"folders": [str(data)], "method": "polling", "interval_s": 0.3}],
            "drop_folder": {"folder": str(tmp_path / "requests"), "interval_s": 0.3},
        },
        "finished": {"stable_s": 0.5},
        "rules": [{"name": "all", "skip": ["denoise", "separate_objects"]}],
        "local": {"output": str(tmp_path / "results")},
        "submitter": {"max_active": 1, "poll_s": 0.5},
        "monitoring": {"health_file": str(tmp_path / "health.json"), "interval_s": 0.5},
    }
    file = tmp_path / "trigger.yaml"
    file.write_text(yaml.safe_dump(settings))
    pipeline = Pipeline(tmp_path / "home")
    assert pipeline("watch", "--config", file, "--check").returncode == 0
    watch = pipeline.start("watch", "--config", file)
    try:
        until(lambda: (tmp_path / "health.json").exists(), 60)
        (data / "part.tmp").write_bytes(scan.read_bytes())
        (data / "part.tmp").rename(data / "one.h5")
        (data / "two.h5").write_bytes(scan.read_bytes()[:30_000])
        ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
        until(lambda: ledger.counts()["submitted"] == 1, 60)
        watch.kill()
        watch.communicate()
        (data / "two.h5").write_bytes(scan.read_bytes())
        watch = pipeline.start("watch", "--config", file)
        until(lambda: ledger.counts()["done"] == 2, 200)
        status = pipeline("watch", "--config", file, "status")
        assert "done 2" in status.stdout and "one.h5" in status.stdout, status.stdout
        explained = pipeline("watch", "--config", file, "explain", data / "one.h5")
        assert "rule      all: yes" in explained.stdout and "finished" in explained.stdout, explained.stdout
        again = pipeline("watch", "--config", file, "add", data / "one.h5")
        assert again.returncode == 2 and "--again makes another run" in again.stderr
    finally:
        watch.send_signal(signal.SIGTERM)
        _, said = watch.communicate(timeout=60)
    assert watch.returncode == 0, said
    runs = RunStore(tmp_path / "home" / "runs.sqlite").list_runs()
    assert sorted(Path(run.scan).name for run in runs) == ["one.h5", "two.h5"]
    assert all(run.status == "SUCCEEDED" and any(tag.startswith("trigger:") for tag in run.tags) for run in runs)


def test_commands_say_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "TOMOPIPE_HOME": str(tmp_path)}
    environment.pop("TOMOPIPE_TRIGGER", None)
    done = subprocess.run(
        [sys.executable, "-m", "tomopipe.flows.cli", "watch", "status"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "TOMOPIPE_TRIGGER" in done.stderr
