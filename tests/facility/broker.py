"""RabbitMQ from the Debian package as a private broker on the loopback address, all its files in one folder.

Queues and messages are the compute service's; the system's own RabbitMQ service is not touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from pathlib import Path

import pika
import pika.exceptions

from .keeper import Kept

# Not /usr/sbin/rabbitmq-server: that one changes to the service's own user and folders.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_S = 60.0
_STOP_S = 10.0
_TRIES = 3


def rabbitmq_missing() -> str | None:
    """Why there can be no broker on this machine; ``None`` where there can."""
    if not _SERVER.is_file():
        return f"RabbitMQ is not installed ({_SERVER} is missing): apt-get install rabbitmq-server"
    if shutil.which("erl") is None:
        return "RabbitMQ needs Erlang (erl is not on the PATH): apt-get install rabbitmq-server"
    return None


class Broker:
    """One broker, for as long as this process lives; use it as a context, or `start` and `stop` it.

    Parameters
    ----------
    folder : Path
        Folder for its files; made where missing. Any number of brokers may run, each in a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._user = "facility"
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._kept: Kept | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """AMQP address, with the password of this broker."""
        return f"amqp://{self._user}:{self._password}@127.0.0.1:{self._port}/%2F"

    def start(self) -> None:
        """Start the broker and wait until it takes connections.

        Raises
        ------
        RuntimeError
            If RabbitMQ is missing or does not come up.
        """
        if missing := rabbitmq_missing():
            raise RuntimeError(missing)
        for _ in range(_TRIES):
            if self._try_to_start():
                return
        raise RuntimeError(f"RabbitMQ does not start; its logs are in {self._folder}\n{self._output()[-2000:]}")

    def stop(self) -> None:
        """Stop the broker and everything that it has started."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.stop(_STOP_S)

    def kill(self) -> None:
        """`kill -9` of the broker."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.kill()

    def pids(self) -> list[int]:
        """Processes of the broker."""
        return self._kept.pids() if self._kept else []

    def _try_to_start(self) -> bool:
        """False where it ended at once: another process may have taken one of the ports in between."""
        self.stop()
        amqp, distribution, names = _free_ports(3)
        self._port = self._port or amqp
        environment = self._environment(distribution, names)
        self._kept = Kept([str(_SERVER)], environment, self._folder, self._folder / "output.log")
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._kept.running():
            if self._answers():
                return True
            time.sleep(0.1)
        self.kill()
        self._port = 0
        return False

    def _environment(self, distribution_port: int, names_port: int) -> dict[str, str]:
        """Everything that RabbitMQ's scripts read, so that nothing of the system's configuration counts."""
        folder = self._folder
        for name in ("home", "mnesia", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        settings = {
            "listeners.tcp.local": f"127.0.0.1:{self._port}",
            "default_user": self._user,
            "default_pass": self._password,
            "disk_free_limit.absolute": "1MB",
            "log.console": "false",
        }
        configuration = folder / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home"),
            "RABBITMQ_NODENAME": f"facility-{self._port}@localhost",
            "RABBITMQ_USE_LONGNAME": "false",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "ERL_EPMD_PORT": str(names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The script then becomes the server, with no shell in between that would wait for it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()  # pika logs every refusal
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def _output(self) -> str:
        return (self._folder / "output.log").read_text(errors="replace")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
