"""The real Globus Compute agent on this machine: configured, started, stopped, killed.

What it talks to is the compute service's; what its workers run is the flow's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import globus_sdk
import psutil
import yaml

from .compute_service import SCOPE
from .keeper import Kept

_FILES = Path(__file__).parent / "endpoint"
_NAME = "loopback"
_START_S = 90.0
_STOP_S = 40.0
# Parsl puts the path into shell commands, unquoted.
_SAFE = re.compile(r"[A-Za-z0-9_./+-]+")
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_PASSED_ON = ("HOME", "LANG", "TMPDIR", "TOMOPIPE_HOME", "NUMBA_CACHE_DIR")


def endpoint_package_missing() -> str | None:
    """Why there can be no agent in this environment; ``None`` where there can."""
    if not sys.platform.startswith("linux"):
        return "the Globus Compute agent runs on Linux only"
    if importlib.util.find_spec("globus_compute_endpoint") is None:
        return "globus-compute-endpoint is not installed: pip install 'tomopipe[endpoint]'"
    return None


class Agent:
    """A Globus Compute endpoint and its workers, which end with this process at the latest.

    Parameters
    ----------
    folder : Path
        Folder for its configuration and logs; letters, digits and ``_./+-`` only.
    web_url : str
        Address of the Auth and Compute services.
    client_id, client_secret : str
        Service account that owns the endpoint: only its tasks are run.
    python : str
        Python of the environment in which the agent and its workers run.
    heartbeat_s : float
        Time between heartbeats; the agent takes 5 s at least.
    threads_per_worker : int
        Threads of each worker, unless the option `threads` of a user endpoint says otherwise.
    environment : mapping of str to str, optional
        More variables for the workers.
    """

    def __init__(
        self,
        folder: Path,
        web_url: str,
        client_id: str,
        client_secret: str,
        *,
        python: str = sys.executable,
        heartbeat_s: float = 5.0,
        threads_per_worker: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder.absolute()
        if not _SAFE.fullmatch(str(self._folder)):
            raise ValueError(f"{self._folder}: the agent's shell commands do not bear the characters of this path")
        self._web_url = web_url
        self._client = (client_id, client_secret)
        self._python = python
        self._heartbeat_s = heartbeat_s
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._environment = {
            **passed,
            # Not resolved: the python of a virtual environment is a link.
            "PATH": f"{Path(python).absolute().parent}:{os.environ.get('PATH', os.defpath)}",
            "GLOBUS_COMPUTE_USER_DIR": str(self._folder),
            "CWD": str(self._folder),
            **dict.fromkeys(_THREAD_COUNTS, str(threads_per_worker)),
            **(environment or {}),
        }
        self._kept: Kept | None = None

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def endpoint_id(self) -> str:
        """Id of the endpoint; known after the first start, and kept over restarts."""
        endpoint_id: str = json.loads((self._folder / _NAME / "endpoint.json").read_text())["endpoint_id"]
        return endpoint_id

    def start(self) -> None:
        """Start the agent, configuring it at the first time, and wait until the service hears it.

        Raises
        ------
        RuntimeError
            If it does not come up.
        """
        if missing := endpoint_package_missing():
            raise RuntimeError(missing)
        if not (self._folder / _NAME).is_dir():
            self._configure()
        # Left by an agent that was killed. Its processes are gone for sure: they were kept.
        for stale in self._folder.glob("*/daemon.pid"):
            stale.unlink()
        registered = self._registered()
        self._kept = Kept(self._command("start", _NAME), self._agent_environment(), self._folder, self._output)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._kept.running():
            # Before the new registration, the service may still take the last agent for alive.
            if self._registered() != registered and self._online():
                return
            time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"the Globus Compute agent does not come up\n{self.logs()[-4000:]}")

    def stop(self) -> None:
        """End the agent and its workers, and wait until they are gone."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.stop(_STOP_S)

    def kill(self) -> None:
        """`kill -9` of the agent, its user endpoints and their workers at once, as when the machine fails."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.kill()

    def restart(self) -> None:
        """Stop the agent, if it runs, and start it with the same endpoint id."""
        self.stop()
        self.start()

    def pids(self) -> list[int]:
        """All processes of the agent."""
        return self._kept.pids() if self._kept else []

    def worker_pids(self) -> list[int]:
        """Processes that run tasks (of the engine `processes`)."""
        found: list[int] = []
        for pool in self.pids():
            if "parsl.executors.high_throughput.process_worker_pool" in _command(pool).split("\0"):
                spawned = [process for process in _children(pool) if "spawn_main" in _command(process.pid)]
                # The first is a store that the pool shares with its workers.
                found += [process.pid for process in sorted(spawned, key=psutil.Process.create_time)[1:]]
        return found

    def logs(self) -> str:
        """All that the agent, its user endpoints and its workers wrote."""
        files = [self._output, *sorted(self._folder.glob("*/**/*.log"))]
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')}" for file in files if file.is_file())

    @property
    def _output(self) -> Path:
        return self._folder / "agent.out"

    def _configure(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        core = yaml.safe_load((_FILES / "config.yaml").read_text()) | {"heartbeat_period": self._heartbeat_s}
        files = {"core.yaml": core, "environment.yaml": self._environment}
        for name, content in files.items():
            (self._folder / name).write_text(yaml.safe_dump(content))
        command = self._command(
            "configure",
            "--multi-user=false",
            f"--core-config={self._folder / 'core.yaml'}",
            f"--user-env-config={self._folder / 'environment.yaml'}",
            f"--template-config={_FILES / 'user_config_template.yaml.j2'}",
            f"--schema-config={_FILES / 'user_config_schema.json'}",
            _NAME,
        )
        done = subprocess.run(
            command,
            env=self._agent_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the endpoint cannot be configured\n{done.stdout}{done.stderr}")

    def _command(self, *arguments: str) -> list[str]:
        return [self._python, str(_FILES / "command.py"), *arguments]

    def _agent_environment(self) -> dict[str, str]:
        client_id, client_secret = self._client
        return {
            **self._environment,
            "GLOBUS_SDK_SERVICE_URL_AUTH": self._web_url,
            "GLOBUS_SDK_SERVICE_URL_COMPUTE": self._web_url,
            "GLOBUS_COMPUTE_CLIENT_ID": client_id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": client_secret,
        }

    def _registered(self) -> int:
        """When the agent last wrote down its id, in nanoseconds; 0 if never."""
        file = self._folder / _NAME / "endpoint.json"
        return file.stat().st_mtime_ns if file.is_file() else 0

    def _online(self) -> bool:
        client_id, client_secret = self._client
        auth = globus_sdk.ConfidentialAppAuthClient(client_id, client_secret, base_url=self._web_url)
        authorizer = globus_sdk.ClientCredentialsAuthorizer(auth, SCOPE)
        with globus_sdk.ComputeClientV2(base_url=self._web_url, authorizer=authorizer) as compute:
            status: str = compute.get_endpoint_status(self.endpoint_id)["status"]
        return status == "online"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
