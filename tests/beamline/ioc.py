"""A real EPICS IOC (caproto) with the PVs of tomoScan or of its file plugin, in a process of its own.

    python ioc.py PREFIX scan|plugin < lines of JSON {"name": value}

answers each line with "done". The types are those of the records: `busy`, `bo`, `mbbo` as enumerations, names as waveforms
of characters, counts as integers, progress as strings.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

Value = str | int
_CHOICES = {
    "StartScan": ["Done", "Acquire"],
    "AbortScan": ["No", "Yes"],
    "ScanType": ["Single", "Vertical", "Horizontal", "Mosaic"],
    "Capture_RBV": ["Done", "Capture"],
    "WriteStatus": ["Write OK", "Write error"],
}
_WAVEFORMS = {"ScanStatus", "FilePath", "FileName", "FullFileName", "FullFileName_RBV"}


def free_port() -> int:
    """A port that is free for TCP and UDP."""
    for _ in range(100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Ioc:
    """The IOC's process, seen from the test. It can be killed, stopped for a while and started again."""

    def __init__(self, prefix: str, values: dict[str, Value], port: int | None = None) -> None:
        self.prefix = prefix
        self.port = port or free_port()
        self.values = dict(values)
        self._defaults = dict(values)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it with the present values, and wait until it serves."""
        environment = {
            **os.environ,
            "EPICS_CA_SERVER_PORT": str(self.port),
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_BEACON_PORT": str(free_port()),
            "EPICS_CA_ADDR_LIST": "127.0.0.1",
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), self.prefix, json.dumps(self.values)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # nobody hears its beacons
            text=True,
        )
        assert self._answer() == "serving"

    def put(self, name: str, value: Value) -> None:
        """Change a PV, as tomoScan or areaDetector does; it is on its way when this returns."""
        self.values[name] = value
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({name: value}) + "\n")
        self.process.stdin.flush()
        assert self._answer() == "done"

    def kill(self) -> None:
        """End it without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None

    def restart(self) -> None:
        """End it and start it with the values of the beginning."""
        self.kill()
        self.values = dict(self._defaults)
        self.start()

    def _answer(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def _channel(name: str, value: Value) -> Any:
    from caproto import ChannelChar, ChannelEnum, ChannelInteger, ChannelString

    if name in _CHOICES:
        return ChannelEnum(value=_CHOICES[name][int(value)], enum_strings=_CHOICES[name])
    if name in _WAVEFORMS:
        return ChannelChar(value=str(value), max_length=256)
    if isinstance(value, int):
        return ChannelInteger(value=value)
    return ChannelString(value=[value], string_encoding="utf-8")


async def _serve(prefix: str, values: dict[str, Value]) -> None:
    from caproto.asyncio.server import Context

    channels = {name: _channel(name, value) for name, value in values.items()}
    context = Context({prefix + name: channel for name, channel in channels.items()}, ["127.0.0.1"])

    async def started(async_lib: Any) -> None:
        print("serving", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            for name, value in json.loads(line).items():
                choice = _CHOICES[name][int(value)] if name in _CHOICES else value
                await channels[name].write([choice] if isinstance(channels[name].value, list) else choice)
            print("done", flush=True)
        os._exit(0)

    await context.run(startup_hook=started)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], json.loads(sys.argv[2])))
