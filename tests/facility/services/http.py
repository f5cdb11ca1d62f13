"""The one HTTP server of the stand-in services: requests, answers, errors, whose token it is, and planned faults.

What a service says is left to its part; what a token stands for is left to Auth.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

Json = Any
Consents = Mapping[str, Any]
"""Tree of scopes that a person let a client have: ``{scope: {dependent scope: {...}}}``."""


@dataclass(frozen=True)
class Caller:
    """Whose token a request carries.

    Parameters
    ----------
    identity_id, username : str
        The person, or the service account (whose identity id is its client id).
    client_id : str
        Application that the token was given to.
    scopes : frozenset of str
        Top-level scopes of the token, all of one resource server.
    resource_server : str
        Service that the token is for; the others refuse it.
    consents : mapping
        Tree of what the person let the application have, as it was when the request came.
    email : str or None
        Address, where one is known.
    """

    identity_id: str
    username: str
    client_id: str
    scopes: frozenset[str]
    consents: Consents
    resource_server: str = ""
    email: str | None = None

    @property
    def urn(self) -> str:
        """The identity as the services write a principal."""
        return f"urn:globus:auth:identity:{self.identity_id}"


def consented(consents: Consents, *path: str) -> bool:
    """Whether a tree of consents has a scope that depends on the scopes before it in `path`."""
    for scope in path:
        if scope not in consents:
            return False
        consents = consents[scope]
    return True


@dataclass(frozen=True)
class Request:
    """A request as a part gets it. `body` is JSON, or the dict of a form; ``None`` where there is none."""

    method: str
    path: str
    query: dict[str, str]
    body: Json
    headers: Mapping[str, str]
    caller: Caller | None
    query_lists: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """An answer: JSON, or a text that is sent as a web page."""

    status: int
    document: Json
    headers: Mapping[str, str] = field(default_factory=dict)


class ServiceError(Exception):
    """A part refuses a request: the status and the document of its service's errors."""

    def __init__(self, status: int, document: Json) -> None:
        super().__init__(f"{status}: {document}")
        self.status = status
        self.document = document


class Part(Protocol):
    """A service behind the server. The part with the longest prefix that fits a path gets the request.

    Called from several threads at once. Anything else than a `ServiceError` is a fault of the stand-in: the client
    gets a 500, and `Server.crashes` keeps the traceback.
    """

    prefixes: tuple[str, ...]

    def handle(self, request: Request) -> Response:
        """Answer a request, or raise `ServiceError`."""
        ...


@dataclass
class _Fault:
    prefix: str
    method: str | None
    status: int | None
    document: Json
    headers: Mapping[str, str]
    left: int


@dataclass(frozen=True)
class LoggedRequest:
    """What the log keeps of a request: neither tokens nor secrets nor bodies."""

    method: str
    path: str
    query: dict[str, str]
    status: int
    username: str | None
    seconds: float


class Server:
    """HTTP/1.1 on 127.0.0.1, any free port, a thread a connection.

    Parameters
    ----------
    parts : sequence of Part
        The services; `mount` adds more.
    authenticate : callable
        Bearer token -> `Caller`, or ``None`` where the token is unknown, expired or revoked.
    """

    def __init__(self, parts: Sequence[Part], authenticate: Callable[[str], Caller | None]) -> None:
        self._parts: list[tuple[str, Part]] = []
        self._authenticate = authenticate
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.log: list[LoggedRequest] = []
        self.crashes: list[str] = []
        for part in parts:
            self.mount(part)
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._started = False

    @property
    def url(self) -> str:
        """Address, without a slash at its end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def mount(self, part: Part) -> None:
        """Let a part answer the paths below its prefixes."""
        self._parts += [(prefix, part) for prefix in part.prefixes]
        self._parts.sort(key=lambda entry: len(entry[0]), reverse=True)

    def start(self) -> None:
        """Answer requests from now on."""
        self._started = True
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._started:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _hang_up(connection)

    def fail_next(
        self,
        status: int,
        *,
        times: int = 1,
        prefix: str = "/",
        method: str | None = None,
        document: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next requests below `prefix` with an error instead of handing them to their part."""
        said = {"error": {"code": "FAULT", "detail": f"planned fault {status}"}} if document is None else document
        with self._lock:
            self._faults.append(_Fault(prefix, method, status, said, dict(headers or {}), times))

    def lose_next_answer(self, *, times: int = 1, prefix: str = "/", method: str | None = None) -> None:
        """Do what the next requests below `prefix` ask for, but hang up without an answer."""
        with self._lock:
            self._faults.append(_Fault(prefix, method, None, None, {}, times))

    def answer(self, request: Request, fault: _Fault | None) -> Response:
        """The answer of the part, or the planned fault."""
        if fault is not None and fault.status is not None:
            return Response(fault.status, fault.document, fault.headers)
        part = next((part for prefix, part in self._parts if request.path.startswith(prefix)), None)
        if part is None:
            return Response(404, {"code": "NotFound", "message": f"no service answers {request.path}"})
        try:
            return part.handle(request)
        except ServiceError as error:
            return Response(error.status, error.document)
        except Exception as error:  # noqa: BLE001 - whatever a part does wrong must not end the server
            with self._lock:
                self.crashes.append(f"{request.method} {request.path}\n{traceback.format_exc()}")
            return Response(500, {"code": "StandInFault", "message": f"{type(error).__name__}: {error}"})

    def caller(self, authorization: str | None) -> Caller | None:
        """Whom a request's ``Authorization: Bearer`` stands for."""
        kind, _, token = (authorization or "").partition(" ")
        return self._authenticate(token) if kind == "Bearer" else None

    def fault_for(self, method: str, path: str) -> _Fault | None:
        """Take the first planned fault that fits a request."""
        with self._lock:
            for fault in self._faults:
                if path.startswith(fault.prefix) and fault.method in (None, method):
                    fault.left -= 1
                    if fault.left == 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def note(self, request: Request, status: int, seconds: float) -> None:
        """Write a request into the log."""
        username = request.caller.username if request.caller else None
        # An authorization code is as good as a token for a while.
        query = {key: "..." if key in ("code", "code_challenge", "state") else v for key, v in request.query.items()}
        with self._lock:
            self.log.append(LoggedRequest(request.method, request.path, query, status, username, seconds))

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection, to be able to close it."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One packet an answer: unbuffered small writes wait 40 ms for each other on loopback.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _HttpServer

    def setup(self) -> None:
        super().setup()
        self.server.owner.opened(self.connection)

    def finish(self) -> None:
        self.server.owner.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing goes to stderr: paths may hold codes."""

    def _any(self) -> None:
        started = time.monotonic()
        owner = self.server.owner
        url = urllib.parse.urlsplit(self.path)
        path = "/" + url.path.lstrip("/")
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lists = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        fault = owner.fault_for(self.command, path)
        # HTTP has no case in header names; parts find them in lower case.
        headers = {name.lower(): value for name, value in self.headers.items()}
        caller = owner.caller(headers.get("authorization"))
        query = {name: values[-1] for name, values in lists.items()}
        try:
            request = Request(self.command, path, query, self._body(raw), headers, caller, lists)
            response = owner.answer(request, fault)
        except ValueError as error:
            request = Request(self.command, path, query, None, headers, caller, lists)
            response = Response(400, {"code": "BAD_REQUEST", "message": f"the body cannot be read: {error}"})
        owner.note(request, response.status, time.monotonic() - started)
        if fault is not None and fault.status is None:
            self.close_connection = True
            _hang_up(self.connection)
            return
        self._send(response)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

    def _body(self, raw: bytes) -> Json:
        if not raw:
            return None
        kind = self.headers.get_content_type()
        if kind == "application/x-www-form-urlencoded":
            return {key: " ".join(found) for key, found in urllib.parse.parse_qs(raw.decode(), True).items()}
        return json.loads(raw)

    def _send(self, response: Response) -> None:
        text = isinstance(response.document, str)
        body = response.document.encode() if text else json.dumps(response.document).encode()
        self.send_response(response.status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster
