"""A facility for tests that need no agent: the loopback services, three collections, a service account, a deployment."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml
from facility.services.http import Request, Response, ServiceError
from facility.services.web import WebServices
from in_process_compute import InProcessCompute

from tomopipe.flows.deployment import Deployment, load_deployment
from tomopipe.flows.login import Services, TerminalLogin, make_services

READS = ("/flows/validate", "/v2/oauth2", "/v0.10/submission_id")
"""What is asked by POST and changes nothing."""


class SmallFacility:
    """Started on entering; `deployment` is read again after each `rewrite`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.endpoint = str(uuid.uuid4())
        self.compute = InProcessCompute(self.endpoint)
        self.web = WebServices(folder / "services", compute=self.compute)
        self._monkeypatch = monkeypatch
        self.roots = {name: folder / name for name in ("source", "processing", "share")}

    def __enter__(self) -> SmallFacility:
        self.home.mkdir()
        for root in self.roots.values():
            root.mkdir()
        self.web.start()
        self.client_id, self.secret = self.web.add_service_account()
        self.collections = {
            name: self.web.add_collection(name, root, mapped=name == "processing") for name, root in self.roots.items()
        }
        for name in ("source", "processing", "share"):
            (self.roots[name] / "tomography").mkdir()
        self.set_environment(self._monkeypatch)
        self.rewrite()
        self.services = self.log_in()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.services.close()
        self.web.stop()
        assert kind is not None or self.web.faults == []

    def set_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the services are, and who asks."""
        for name, value in self.web.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TOMOPIPE_HOME", str(self.home))
        monkeypatch.setenv("TOMOPIPE_CLIENT_ID", self.client_id)
        monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", self.secret)

    def become_person(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on a person asks, at a terminal, who agrees to everything."""
        person = self.web.add_person("somebody@example.org")
        shown: list[str] = []
        for name in ("TOMOPIPE_CLIENT_ID", "TOMOPIPE_CLIENT_SECRET"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("TOMOPIPE_NATIVE_CLIENT_ID", self.web.native_client_id)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr(TerminalLogin, "print_authorize_url", lambda manager, url: shown.append(url))
        monkeypatch.setattr(
            TerminalLogin, "prompt_for_code", lambda manager: self.web.log_in(shown[-1], person.username)
        )

    def log_in(self) -> Services:
        """The clients of who asks."""
        return make_services(self.deployment)

    def rewrite(self, **sections: Any) -> None:
        """Write the deployment's file anew, sections merged over what a plain one has."""
        processing = self.roots["processing"] / "tomography"
        values: dict[str, Any] = {
            "format": "tomopipe-deployment/1",
            "title": "A small facility",
            "source": {"collection": self.collections["source"], "path": "/tomography"},
            "processing": {
                "collection": self.collections["processing"],
                "path": "/tomography",
                "host_path": str(processing),
                "mapped": True,
            },
            "compute": {"endpoint": self.endpoint, "user_endpoint_config": {"queue": "debug"}, "wait_hours": 1},
            "visible_to": ["all_authenticated_users"],
        }
        for name, section in sections.items():
            old = values.get(name)
            values[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
        file = self.folder / "small.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self.deployment: Deployment = load_deployment(file)

    def forget(self) -> None:
        """Be another machine: nothing is noted here."""
        shutil.rmtree(self.home / "deployed")

    def writes(self) -> list[tuple[str, str]]:
        """Every request so far that may have changed something."""
        return [
            (one.method, one.path)
            for one in self.web.server.log
            if one.method != "GET" and not one.path.startswith(READS)
        ]

    def lose_answer_to_creating_the_flow(self) -> None:
        """Create the next flow, but answer as a gateway does that has lost the service."""
        part = self.web.flows
        create = part._create

        def creating(request: Request) -> Response:
            part._create = create  # type: ignore[method-assign]
            create(request)
            raise ServiceError(502, {"error": {"code": "BAD_GATEWAY", "detail": "no answer"}})

        part._create = creating  # type: ignore[method-assign]

    def tokens(self) -> list[str]:
        """Every access token of the service account."""
        stored = self.services.app.token_storage.token_storage.get_token_data_by_resource_server()
        return [data.access_token for data in stored.values()]
