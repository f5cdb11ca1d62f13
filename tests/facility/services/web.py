"""All web services of the facility behind one address: what a test starts, sets up and looks into.

The services are parts of their own; Compute, which needs a broker, is mounted from outside.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import compute_action, search, transfer
from .auth import AuthService, Identity
from .compute_action import ComputeAction
from .flows import FlowsService, Run
from .http import Json, LoggedRequest, Part, Server
from .search import SearchService
from .transfer import TransferService

_SERVICES = ("AUTH", "FLOWS", "TRANSFER", "SEARCH", "COMPUTE", "GROUPS")


class WebServices:
    """Auth, Flows, Transfer and Search on 127.0.0.1, any port; use it as a context, or `start` and `stop` it.

    Parameters
    ----------
    folder : Path
        For the search indices.
    compute : Part with `submit_tasks` and `task`, optional
        The Compute part; without one the Compute action cannot be run.
    free_tier : bool
        Whether the limit of one flow a person without a subscription holds.
    """

    def __init__(self, folder: Path, compute: Any = None, *, free_tier: bool = True) -> None:
        self.auth = AuthService()
        self.transfer = TransferService(self.auth)
        self.search = SearchService(Path(folder) / "indices")
        self.compute_action = ComputeAction(None)
        for module in (search, compute_action):
            self.auth.register_scope(module.SCOPE, module.RESOURCE_SERVER)
        self.auth.register_scope(search.DELETE_SCOPE, search.RESOURCE_SERVER)
        self.flows = FlowsService(
            self.auth,
            {
                transfer.ACTION_URL: (self.transfer.action, transfer.ALL),
                search.ACTION_URL: (self.search.action, search.SCOPE),
                search.DELETE_URL: (self.search.delete_action, search.DELETE_SCOPE),
                compute_action.ACTION_URL: (self.compute_action.action, compute_action.SCOPE),
            },
            free_tier=free_tier,
        )
        self.server = Server([self.auth, self.flows, self.transfer, self.search], self.auth.caller)
        self.auth.issuer = self.url
        self.native_client_id = self.auth.add_native_app("tomopipe")
        if compute is not None:
            self.mount_compute(compute)

    def __enter__(self) -> WebServices:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer requests from now on."""
        self.server.start()

    def stop(self) -> None:
        """Cancel what runs, and close the port."""
        self.flows.stop()
        self.transfer.stop()
        self.server.stop()

    def mount(self, part: Part) -> None:
        """Let a part answer the paths below its prefixes."""
        self.server.mount(part)

    def mount_compute(self, part: Any) -> None:
        """The Compute part: its routes, and what the Compute action submits to."""
        self.server.mount(part)
        self.compute_action.compute = part

    @property
    def url(self) -> str:
        """Address of all services."""
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        """What lets the clients of globus_sdk find these services."""
        return {f"GLOBUS_SDK_SERVICE_URL_{name}": f"{self.url}/" for name in _SERVICES}

    # --- What tests set up

    def add_collection(self, name: str, root: Path, mapped: bool = False) -> str:
        """A collection over a folder; a mapped one needs the consent `data_access`. Its id."""
        return self.transfer.add_collection(name, root, mapped=mapped)

    def add_service_account(self, name: str = "service account") -> tuple[str, str]:
        """Client id and secret of a new service account."""
        return self.auth.add_service_account(name)

    def add_person(self, username: str) -> Identity:
        """A person who can log in to the native apps `native_client_id` and Gladier's."""
        return self.auth.add_person(username)

    def add_subscription(self) -> str:
        """A subscription of which everyone is a member."""
        subscription = str(uuid.uuid4())
        self.flows.subscriptions.add(subscription)
        return subscription

    def log_in(self, authorize_url: str, username: str | None = None) -> str:
        """What a person does with the address that a login prints: agree, and copy the code.

        Raises
        ------
        urllib.error.HTTPError
            If Auth refuses the request.
        """
        request = urllib.request.Request(authorize_url, headers={"X-Person": username} if username else {})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=30) as answer:
            query = urllib.parse.urlsplit(answer.headers["Location"] or "").query
        return urllib.parse.parse_qs(query)["code"][0]

    # --- Faults

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
        """Answer the next requests below `prefix` with an error instead of doing what they ask."""
        self.server.fail_next(status, times=times, prefix=prefix, method=method, document=document, headers=headers)

    def lose_next_answer(self, *, times: int = 1, prefix: str = "/", method: str | None = None) -> None:
        """Do what the next requests below `prefix` ask, but hang up without an answer."""
        self.server.lose_next_answer(times=times, prefix=prefix, method=method)

    def expire_tokens(self, identity_id: str | None = None) -> int:
        """Let every access token (of one identity) expire now."""
        return self.auth.expire_tokens(identity_id)

    def corrupt_next_transfer(self) -> None:
        """Let the copy of the next transfer differ from its source."""
        self.transfer.corrupt_next_transfer()

    def pause_collection(self, collection: str, paused: bool = True) -> None:
        """Let a collection's administrator hold its transfers, or let them go on."""
        self.transfer.pause(collection, paused)

    # --- What tests look into

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their start."""
        return self.flows.runs

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, without tokens and secrets."""
        return list(self.server.log)

    @property
    def faults(self) -> list[str]:
        """What went wrong in the stand-in itself: a test that ends with any has proven nothing."""
        return [*self.server.crashes, *self.flows.faults]


class _NoRedirect(urllib.request.HTTPErrorProcessor):
    """Keeps the answer that redirects: the code is in it."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response if response.status == 302 else super().http_response(request, response)
