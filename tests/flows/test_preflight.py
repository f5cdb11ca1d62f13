"""Preflight: all is well where it is, each fault is found by its check alone, and nothing is left behind."""

from __future__ import annotations

import importlib.metadata
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
from small_facility import SmallFacility

from tomopipe.flows import preflight as module
from tomopipe.flows.deploy import deploy
from tomopipe.flows.login import login
from tomopipe.flows.preflight import Check, preflight, probe_worker

FAST = {"worker_wait_s": 1, "transfer_wait_s": 20}


@pytest.fixture
def facility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFacility]:
    with SmallFacility(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def deployed(facility: SmallFacility) -> SmallFacility:
    deploy(facility.deployment, facility.services)
    return facility


def check_all(facility: SmallFacility) -> dict[str, Check]:
    return {check.name: check for check in preflight(facility.deployment, facility.services, **FAST)}


def failed(checks: dict[str, Check]) -> set[str]:
    """Names of the checks that found a fault themselves."""
    return {check.name for check in checks.values() if not check.ok and not check.said.startswith("passed over")}


def left_in(facility: SmallFacility) -> list[Path]:
    return [path for root in facility.roots.values() for path in root.rglob("*preflight*")]


def test_a_good_deployment_passes_and_nothing_stays(deployed: SmallFacility) -> None:
    functions = set(deployed.compute.functions)
    seen: list[Check] = []
    checks = preflight(deployed.deployment, deployed.services, seen.append, **FAST)
    assert [check for check in checks if not check.ok] == []
    assert seen == checks
    assert left_in(deployed) == []
    assert set(deployed.compute.functions) == functions
    index = deploy(deployed.deployment, deployed.services).index_id
    assert deployed.services.search.search(index, "preflight")["total"] == 0


def test_the_function_gets_the_configuration_of_the_deployment(deployed: SmallFacility) -> None:
    check_all(deployed)
    assert deployed.compute.configs == [{"queue": "debug"}]


def test_the_worker_says_what_it_has(deployed: SmallFacility) -> None:
    said = check_all(deployed)["worker"].said
    for package in ("tomopipe", "parsl"):
        assert f"{package} {importlib.metadata.version(package)}" in said
    assert "Python 3." in said
    assert "scratch /" in said


def test_results_are_copied_to_the_share(facility: SmallFacility) -> None:
    facility.rewrite(share={"collection": facility.collections["share"], "path": "/tomography"})
    deploy(facility.deployment, facility.services)
    checks = check_all(facility)
    assert failed(checks) == set()
    assert checks["transfer out"].ok
    assert "arrived at /tomography" in checks["transfer out"].said
    assert left_in(facility) == []


def test_without_a_share_the_transfer_out_is_said_to_be_passed_over(deployed: SmallFacility) -> None:
    check = check_all(deployed)["transfer out"]
    assert check.ok
    assert check.said.startswith("passed over: the deployment has no share")


def test_what_a_transfer_leaves_goes_away_where_no_worker_has_noted_it(deployed: SmallFacility) -> None:
    deployed.compute.offline.add(deployed.endpoint)
    (deployed.roots["source"] / "tomography" / "README.txt").write_text("x")
    checks = check_all(deployed)
    assert "arrived" in checks["transfer in"].said
    assert checks["clean-up"].said == "1 deleted"
    assert left_in(deployed) == []


def test_a_file_of_the_source_is_sent_where_there_is_a_small_one(deployed: SmallFacility) -> None:
    (deployed.roots["source"] / "tomography" / "README.txt").write_text("x")
    checks = check_all(deployed)
    assert "/tomography/README.txt arrived" in checks["transfer in"].said
    assert (deployed.roots["source"] / "tomography" / "README.txt").exists()


def test_not_deployed(facility: SmallFacility) -> None:
    checks = check_all(facility)
    assert failed(checks) == {"flow"}
    assert f"tomopipe deploy {facility.deployment.file}" in f"{checks['flow'].said} {checks['flow'].remedy}"
    assert checks["search index"].said == "passed over: it needs 'flow'"
    assert checks["transfer in"].ok


def test_another_version_here_than_deployed(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        module.importlib.metadata, "version", lambda name: "9.9" if name == "tomopipe" else version(name)
    )
    checks = check_all(deployed)
    assert "up to date" in failed(checks)
    assert "9.9" in checks["up to date"].said


def test_other_functions_here_than_deployed(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "all_functions_digest", lambda: f"sha256:{'0' * 64}")
    checks = check_all(deployed)
    assert failed(checks) == {"up to date"}
    assert checks["up to date"].remedy == f"`tomopipe deploy {deployed.deployment.file}`"


def test_a_file_that_was_changed_since(deployed: SmallFacility) -> None:
    deployed.rewrite(compute={"user_endpoint_config": {"queue": "prod"}})
    checks = check_all(deployed)
    assert failed(checks) == {"up to date"}
    assert "user_endpoint_config" in checks["up to date"].said


def test_another_version_on_the_worker(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    run = deployed.compute._run

    def older(function_id: str, packed: str) -> str:
        task_id = run(function_id, packed)
        task = deployed.compute.tasks[task_id]
        here = importlib.metadata.version("tomopipe")
        task["result"] = task["result"].replace(f'"tomopipe": "{here}"', '"tomopipe": "0.0.1"')
        return task_id

    monkeypatch.setattr(deployed.compute, "_run", older)
    checks = check_all(deployed)
    assert failed(checks) == {"tomopipe on the worker"}
    assert "0.0.1" in checks["tomopipe on the worker"].said


def test_the_endpoint_is_offline(deployed: SmallFacility) -> None:
    deployed.compute.offline.add(deployed.endpoint)
    checks = check_all(deployed)
    assert "endpoint" in failed(checks)
    assert "globus-compute-endpoint start" in str(checks["endpoint"].remedy)
    assert checks["worker"].said == "passed over: it needs 'endpoint'"


def test_the_queue_is_long(deployed: SmallFacility) -> None:
    deployed.compute.queued = True
    checks = check_all(deployed)
    assert "still queued after 1 s" in checks["worker"].said
    assert "queue" in str(checks["worker"].remedy)


def held_back(facility: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tasks that wait in the queue; calling one runs it."""
    waiting: list[Any] = []
    run = facility.compute._run

    def queued(function_id: str, packed: str) -> str:
        function = facility.compute.functions[function_id]
        task_id = str(uuid.uuid4())
        facility.compute.tasks[task_id] = {"task_id": task_id, "status": "waiting-for-nodes"}

        def later() -> None:
            # As at the service, what was sent runs although its function is deleted by then.
            facility.compute.functions[function_id] = function
            run(function_id, packed)
            del facility.compute.functions[function_id]

        waiting.append(later)
        return task_id

    monkeypatch.setattr(facility.compute, "_run", queued)
    return waiting


def test_what_a_queued_function_may_yet_write_is_said(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = held_back(deployed, monkeypatch)
    checks = check_all(deployed)
    assert left_in(deployed) == []
    waiting[0]()
    [written] = {path for path in left_in(deployed) if path.is_dir()}
    assert failed(checks) == {"worker", "clean-up", "transfer in"}
    assert f"{written} may yet be written" in checks["clean-up"].said
    assert str(written) in str(checks["clean-up"].remedy)
    assert str(written) in str(checks["worker"].remedy)


def test_a_function_that_runs_too_late_is_cleaned_up_after(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = held_back(deployed, monkeypatch)

    def checked(check: Check) -> None:
        if check.name == "worker":
            waiting[0]()
            assert left_in(deployed) != []

    preflight(deployed.deployment, deployed.services, checked, **FAST)
    assert left_in(deployed) == []


def stopped(facility: SmallFacility) -> dict[str, Check]:
    """What is said until Ctrl-C goes through."""
    seen: list[Check] = []
    with pytest.raises(KeyboardInterrupt):
        preflight(facility.deployment, facility.services, seen.append, **FAST)
    return {check.name: check for check in seen}


def test_ctrl_c_while_a_function_is_queued_says_what_it_may_write(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = set(deployed.compute.functions)
    held_back(deployed, monkeypatch)

    def interrupted(done: Any, wait_s: float) -> None:
        monkeypatch.undo()
        deployed.set_environment(monkeypatch)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait_for", interrupted)
    checks = stopped(deployed)
    assert list(checks)[-1] == "clean-up"
    assert "may yet be written by the function" in checks["clean-up"].said
    assert set(deployed.compute.functions) == functions


def test_ctrl_c_during_a_transfer_ends_it_and_cleans_up(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployed.roots["source"] / "tomography" / "README.txt").write_text("x")
    submit, cancel = globus_sdk.TransferClient.submit_transfer, globus_sdk.TransferClient.cancel_task
    begun: list[str] = []
    cancelled: list[str] = []

    def submitting(self: Any, data: Any) -> Any:
        answer = submit(self, data)
        begun.append(answer["task_id"])
        return answer

    def waiting(done: Any, wait_s: float) -> Any:
        if begun and not cancelled:
            # It has arrived, and somebody stops the checks before that was seen.
            deadline = time.monotonic() + 10
            while done() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            raise KeyboardInterrupt
        return wait(done, wait_s)

    def cancelling(self: Any, task_id: str) -> Any:
        cancelled.append(task_id)
        return cancel(self, task_id)

    wait = module.wait_for
    monkeypatch.setattr(globus_sdk.TransferClient, "submit_transfer", submitting)
    monkeypatch.setattr(globus_sdk.TransferClient, "cancel_task", cancelling)
    monkeypatch.setattr(module, "wait_for", waiting)
    checks = stopped(deployed)
    assert cancelled == begun
    assert checks["clean-up"].ok
    assert left_in(deployed) == []


def test_ctrl_c_before_anything_was_put_anywhere_just_ends(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._Preflight, "flow", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert list(stopped(deployed)) == ["login"]


def test_ctrl_c_while_the_index_is_written_to_leaves_no_entry(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finish_index_task", interrupted)
    stopped(deployed)
    index = deployed.services.search
    index_id = index.index_list()["index_list"][0]["id"]
    tasks = index.get_task_list(index_id)["tasks"]
    assert [task["task_type"] for task in tasks[:2]] == ["DELETE_ENTRY", "INGEST"]


def test_an_index_that_refuses_an_entry_is_said(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any, task_id: str) -> Any:
        answer = get_task(self, task_id)
        answer._parsed_json |= {"state": "FAILED", "message": "the index is full"}
        return answer

    get_task = globus_sdk.SearchClient.get_task
    monkeypatch.setattr(globus_sdk.SearchClient, "get_task", refused)
    checks = check_all(deployed)
    assert failed(checks) == {"search index"}
    assert checks["search index"].said.endswith("did not take an entry: the index is full")
    assert "globus search index show" in str(checks["search index"].remedy)


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        ("Traceback (most recent call last):\n  File 'x'\nOops: no queue\n", "Oops: no queue"),
        ("Unable to start user endpoint: 'a' was unexpected\n\nOn instance:\n    {'a': 1}]", "'a' was unexpected"),
    ],
)
def test_the_function_fails_on_the_endpoint(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch, exception: str, reason: str
) -> None:
    def failing(function_id: str, packed: str) -> str:
        task_id = str(uuid.uuid4())
        deployed.compute.tasks[task_id] = {"status": "failed", "completion_t": "1", "exception": exception}
        return task_id

    monkeypatch.setattr(deployed.compute, "_run", failing)
    checks = check_all(deployed)
    assert checks["worker"].said.endswith(reason)
    assert "user_endpoint_config" in str(checks["worker"].remedy)


def test_a_worker_that_answers_with_a_pickle_is_not_unpickled(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"

    def answering(function_id: str, packed: str) -> str:
        task_id = str(uuid.uuid4())
        code = f"st\nprobe:open({str(touched)!r}, 'w').close()"
        deployed.compute.tasks[task_id] = {"status": "success", "completion_t": "1", "result": code}
        return task_id

    monkeypatch.setattr(deployed.compute, "_run", answering)
    assert "not answer in JSON" in check_all(deployed)["worker"].said
    assert not touched.exists()


def test_the_collection_is_another_folder_than_the_worker_writes_to(facility: SmallFacility, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    facility.rewrite(processing={"host_path": str(elsewhere)})
    deploy(facility.deployment, facility.services)
    checks = check_all(facility)
    assert "one folder" in failed(checks)
    assert "processing.host_path" in str(checks["one folder"].remedy)
    assert str(elsewhere) in checks["clean-up"].said


def test_the_results_folder_is_missing_on_the_worker(facility: SmallFacility, tmp_path: Path) -> None:
    facility.rewrite(processing={"host_path": str(tmp_path / "nowhere")})
    deploy(facility.deployment, facility.services)
    checks = check_all(facility)
    assert "results folder on the worker" in failed(checks)
    assert "nowhere" in checks["results folder on the worker"].said


def test_a_folder_that_is_not_on_the_collection(facility: SmallFacility) -> None:
    facility.rewrite(source={"path": "/missing"})
    deploy(facility.deployment, facility.services)
    checks = check_all(facility)
    assert failed(checks) == {"source collection"}
    assert "/missing" in checks["source collection"].said


def test_a_file_that_arrives_damaged(deployed: SmallFacility) -> None:
    deployed.web.corrupt_next_transfer()
    (deployed.roots["source"] / "tomography" / "README.txt").write_text("x")
    checks = check_all(deployed)
    assert failed(checks) == {"transfer in"}
    assert "https://app.globus.org/activity/" in str(checks["transfer in"].remedy)


def test_a_collection_that_is_paused_is_not_waited_for_without_end(deployed: SmallFacility) -> None:
    deployed.web.pause_collection(deployed.collections["processing"])
    (deployed.roots["source"] / "tomography" / "README.txt").write_text("x")
    found = preflight(deployed.deployment, deployed.services, worker_wait_s=5, transfer_wait_s=1)
    checks = {check.name: check for check in found}
    assert "was not done after 1 s" in checks["transfer in"].said
    assert "paused by an administrator" in checks["transfer in"].said


def test_a_stranger_may_not_start(deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed.rewrite(people={"viewers": ["public"]})
    deploy(deployed.deployment, deployed.services)
    deployed.client_id, deployed.secret = deployed.web.add_service_account()
    deployed.set_environment(monkeypatch)
    with deployed.log_in() as stranger:
        checks = {check.name: check for check in preflight(deployed.deployment, stranger, **FAST)}
    assert {"right to start", "search index"} <= failed(checks)
    assert "people.starters" in str(checks["right to start"].remedy)


def test_a_person_without_a_consent_is_told_to_log_in(facility: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    facility.become_person(monkeypatch)
    with facility.log_in() as person:
        login(person)
        flow_id = str(deploy(facility.deployment, person).flow_id)
        checks = {check.name: check for check in preflight(facility.deployment, person, **FAST)}
        assert failed(checks) == {"consents"}
        assert f"tomopipe login {facility.deployment.file}" in str(checks["consents"].remedy)
        login(person, flow_id)
        assert failed({check.name: check for check in preflight(facility.deployment, person, **FAST)}) == set()
    facility.rewrite(
        source={"mapped": True, "collection": facility.web.add_collection("new", facility.roots["source"], True)}
    )
    with facility.log_in() as person:
        deploy(facility.deployment, person)
        checks = {check.name: check for check in preflight(facility.deployment, person, **FAST)}
    assert {"consents", "source collection"} <= failed(checks)


def test_a_service_that_is_down_is_said_and_the_others_go_on(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed.services.transfer.retry_config, "max_retries", 0)
    deployed.web.fail_next(503, times=1000, prefix="/v0.10")
    checks = check_all(deployed)
    assert failed(checks) == {"source collection", "results collection", "clean-up"}
    assert checks["search index"].ok


def test_a_login_that_is_not_accepted_stops_at_the_first(
    deployed: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.secret = "wrong"
    deployed.set_environment(monkeypatch)
    with deployed.log_in() as nobody:
        checks = preflight(deployed.deployment, nobody, **FAST)
    assert not checks[0].ok
    assert all(check.said.startswith("passed over") for check in checks[1:])


def test_an_input_that_is_too_long_for_the_run(facility: SmallFacility) -> None:
    facility.rewrite(compute={"user_endpoint_config": {"worker_init": "x" * 60_000}})
    deploy(facility.deployment, facility.services)
    checks = check_all(facility)
    assert failed(checks) == {"limits"}
    assert "worker_init" in str(checks["limits"].remedy) or "user_endpoint_config" in str(checks["limits"].remedy)


def test_a_flow_without_subscription_is_good_with_a_warning(deployed: SmallFacility) -> None:
    limits = check_all(deployed)["limits"]
    assert limits.ok
    assert "flow.subscription_id" in str(limits.remedy)


def test_the_probe_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report: Any = probe_worker(str(tmp_path / "missing"), "p")
    assert report["folder"] == "missing"
    assert report["devices"] == []
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA A100, 550.1'\necho 'NVIDIA A100, 550.1'\n")
    fake.chmod(0o755)
    report = probe_worker(str(tmp_path), "p")
    assert report["folder"] == "written"
    assert (tmp_path / "p" / "probe.txt").exists()
    assert module._devices(report["devices"]) == "2 x NVIDIA A100 (driver 550.1)"
    assert module._devices([]) == "no GPU found"


def program(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines), ""]))
    file.chmod(0o755)
    return file


def test_intel_gpus_are_found_by_pytorch_or_by_oneapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of sycl-ls's lines; nothing is asked where no such GPU can be."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "missing"))
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) == "/dev/dri" or is_dir(path))
    gpu = "Intel(R) Data Center GPU Max 1550"
    program(
        tmp_path / "sycl-ls",
        f"[level_zero:gpu][level_zero:0] Intel(R) oneAPI Unified Runtime over Level-Zero, {gpu} 12.60.7 [1.3.30872]",
        f"[ext_oneapi_level_zero:gpu:1] Intel(R) Level-Zero, {gpu} 1.3 [1.3.30872]",
        "[opencl:cpu][opencl:0] Intel(R) OpenCL, Intel(R) Xeon(R) CPU Max 9470C [2024.18]",
        f"[opencl:gpu][opencl:1] Intel(R) OpenCL Graphics, {gpu} OpenCL 3.0 NEO [24.39]",
    )
    report: Any = probe_worker(str(tmp_path / "none"), "p")
    assert report["devices"] == [f"{gpu}, 1.3.30872"] * 2
    monkeypatch.setattr("sys.executable", str(program(tmp_path / "python", f"{gpu}, 1.6.3")))
    assert probe_worker(str(tmp_path / "none"), "p")["devices"] == [f"{gpu}, 1.6.3"]
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) != "/dev/dri" and is_dir(path))
    assert probe_worker(str(tmp_path / "none"), "p")["devices"] == []


def test_what_pytorch_is_asked_is_python_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) == "/dev/dri" or is_dir(path))
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "xpu.py").write_text(
        "from types import SimpleNamespace\n"
        "def device_count(): return 2\n"
        "def get_device_properties(i): return SimpleNamespace(name=f'GPU {i}', driver_version='1.6')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe_worker(str(tmp_path / "none"), "p")["devices"] == ["GPU 0, 1.6", "GPU 1, 1.6"]


def test_a_folder_half_made_by_the_probe_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left" in str(probe_worker(str(tmp_path), "p")["folder"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_named_with_its_key_and_file(deployed: SmallFacility) -> None:
    nowhere = "12345678-1234-5678-1234-567812345678"
    deployed.rewrite(compute={"endpoint": nowhere}, source={"collection": nowhere}, processing={"path": "/not_made"})
    checks = check_all(deployed)
    for name, key in {
        "endpoint": "compute.endpoint",
        "source collection": "source.collection",
        "results collection": "processing.path",
    }.items():
        remedy = str(checks[name].remedy)
        assert not checks[name].ok
        assert key in remedy and str(deployed.deployment.file) in remedy, name
        assert "tomopipe deploy" not in remedy
