"""A whole facility on this machine: web services, broker, the real Compute agent, three collections, one account.

What runs on it is the tests' or the developer's; the single parts are in the modules beside this one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .agent import Agent, endpoint_package_missing
from .broker import Broker, rabbitmq_missing
from .compute_service import ComputeService
from .services.web import WebServices

_FOLDERS = {"beamline": "/", "eagle": "/tomography", "share": "/results"}
"""Folder of each collection, and the path on it that the deployment names."""


def facility_missing() -> str | None:
    """Why there can be no facility with a Compute agent here; ``None`` where there can."""
    return rabbitmq_missing() or endpoint_package_missing()


class Facility:
    """All of it, for as long as the context lasts; nothing outlives this process.

    Scans are written to `beamline`, a guest collection; the workers see `eagle`, a mapped collection; results go to
    `share`, a guest collection. The service account owns the endpoint and runs the flow. The index and the flow are
    left to ``tomopipe deploy``.

    Parameters
    ----------
    folder : Path
        Folder for everything; made where missing. Letters, digits and ``_./+-`` only.
    compute : bool
        Whether to start the broker and the agent, too.

    Attributes
    ----------
    web : WebServices
        Auth, Flows, Transfer, Search.
    compute : ComputeService or None
        The Compute web service.
    agent : Agent or None
        The Compute agent.
    collections : dict of str to str
        Id of each collection by its folder's name.
    account : tuple of str
        Client id and secret of the service account.
    """

    def __init__(self, folder: Path, compute: bool = True) -> None:
        self.folder = folder.absolute()
        self._with_compute = compute
        self.web: WebServices
        self.compute: ComputeService | None = None
        self.agent: Agent | None = None
        self.collections: dict[str, str] = {}
        self.account = ("", "")
        self._parts = contextlib.ExitStack()

    def __enter__(self) -> Facility:
        with contextlib.ExitStack() as parts:
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.close()

    @property
    def home(self) -> Path:
        """TOMOPIPE_HOME of the clients."""
        return self.folder / "home"

    @property
    def beamline(self) -> Path:
        """Folder that new scans are written to."""
        return self.folder / "beamline"

    @property
    def processing(self) -> Path:
        """Folder that the workers read and write."""
        return self._host_path("eagle")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a client needs, beside those of any process."""
        client_id, client_secret = self.account
        return {
            **self.web.environment,
            "TOMOPIPE_CLIENT_ID": client_id,
            "TOMOPIPE_CLIENT_SECRET": client_secret,
            "TOMOPIPE_HOME": str(self.home),
        }

    def deployment_file(self, name: str = "facility", **changes: Any) -> Path:
        """Write a deployment that names what is here, and return its path.

        Parameters
        ----------
        name : str
            Name of the deployment, and of its file.
        changes
            Keys of the deployment to add or to replace, merged deeply; for example
            ``compute={"user_endpoint_config": {"engine": "thread"}}``.
        """
        document: dict[str, Any] = {
            "extends": "loopback",
            "source": self._place("beamline"),
            "processing": {**self._place("eagle"), "mapped": True},
            "share": self._place("share"),
            "login": {"client_id": self.web.native_client_id},
        }
        if self.agent is not None:
            document["compute"] = {"endpoint": self.agent.endpoint_id}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(_merged(document, changes), sort_keys=False))
        return path

    def tomopipe(self, *arguments: object, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end, as a client of this facility."""
        others = {key: value for key, value in os.environ.items() if not key.startswith(("GLOBUS_", "TOMOPIPE_"))}
        return subprocess.run(
            [sys.executable, "-m", "tomopipe.flows.cli", *map(str, arguments)],
            env={**others, "COLUMNS": "200", **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def kill_agent(self) -> None:
        """`kill -9` of the Compute agent and its workers."""
        self._agent().kill()

    def restart_agent(self) -> None:
        """Start the Compute agent again, stopping it before where it runs."""
        self._agent().restart()

    def _start(self, parts: contextlib.ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)
        if self._with_compute:
            broker = parts.enter_context(Broker(self.folder / "broker"))
            self.compute = ComputeService(broker.url)
            self.compute.start()
            parts.callback(self.compute.stop)
        self.web = WebServices(self.folder / "web", compute=self.compute)
        self.web.start()
        parts.callback(self.web.stop)
        self.account = self.web.add_service_account()
        for name in _FOLDERS:
            self._host_path(name).mkdir(parents=True, exist_ok=True)
            self.collections[name] = self.web.add_collection(name, self.folder / name, mapped=name == "eagle")
        if self._with_compute:
            threads = len(os.sched_getaffinity(0))
            self.agent = Agent(
                self.folder / "agent",
                self.web.url,
                *self.account,
                threads_per_worker=threads,
                environment=self._workers(),
            )
            parts.enter_context(self.agent)

    def _workers(self) -> Mapping[str, str]:
        return {"TOMOPIPE_HOME": str(self.home)}

    def _agent(self) -> Agent:
        if self.agent is None:
            raise RuntimeError("this facility has no Compute agent")
        return self.agent

    def _host_path(self, name: str) -> Path:
        return self.folder / name / _FOLDERS[name].strip("/")

    def _place(self, name: str) -> dict[str, Any]:
        return {"collection": self.collections[name], "path": _FOLDERS[name], "host_path": str(self._host_path(name))}


def _merged(document: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
