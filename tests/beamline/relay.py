"""Stands between a Channel Access client and its servers, so that a test can take the network away without closing anything.

Searches (UDP) are passed on and their answers rewritten to the relay's own ports; circuits (TCP) are passed on.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading

_SEARCH = 6


class Relay:
    """One relay to one server on 127.0.0.1. While `is_cut` nothing passes: datagrams are lost, streams stand still."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._udp.getsockname()[1]
        self._tcp_port: int = self._listener.getsockname()[1]
        self.is_cut = False
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: dict[socket.socket, tuple[str, int]] = {}
        self._selector.register(self._udp, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, with all connections."""
        self._stop.set()
        self._thread.join()
        for one in [self._udp, self._listener, *self._peers, *self._clients]:
            one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                with contextlib.suppress(OSError):
                    self._pass_on(one)
            if self.is_cut:
                self._stop.wait(0.05)

    def _pass_on(self, one: socket.socket) -> None:
        if one is self._udp:
            data, client = self._udp.recvfrom(65536)
            if not self.is_cut:
                question = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._clients[question] = client
                self._selector.register(question, selectors.EVENT_READ)
                question.sendto(data, ("127.0.0.1", self._server_port))
            return
        if one in self._clients:
            data = one.recv(65536)
            client = self._clients.pop(one)
            self._selector.unregister(one)
            one.close()
            if not self.is_cut:
                self._udp.sendto(self._rewritten(data), client)
            return
        if self.is_cut:
            return
        if one is self._listener:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._server_port), timeout=2)
            except OSError:
                near.close()
                return
            for here, there in ((near, far), (far, near)):
                self._peers[here] = there
                self._selector.register(here, selectors.EVENT_READ)
            return
        try:
            data = one.recv(65536)
        except OSError:
            data = b""
        other = self._peers[one]
        if data:
            other.sendall(data)
            return
        for end in (one, other):
            self._peers.pop(end, None)
            self._selector.unregister(end)
            end.close()

    def _rewritten(self, data: bytes) -> bytes:
        """Answers to searches name the port of the server: put ours there."""
        out, place = bytearray(data), 0
        while place + 16 <= len(out):
            command, size, _ = struct.unpack_from(">HHH", out, place)
            if command == _SEARCH:
                struct.pack_into(">H", out, place + 4, self._tcp_port)
            place += 16 + size
        return bytes(out)
