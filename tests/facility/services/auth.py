"""Stand-in of Globus Auth: people, service accounts, applications, scopes, consents and tokens.

What a token may do at a service is left to that service.
"""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from globus_sdk import scopes as sdk_scopes
from globus_sdk.exc import GlobusSDKUsageError
from globus_sdk.scopes import Scope, ScopeParser

from .http import Caller, Consents, Json, Request, Response, ServiceError

TOKEN_LIFETIME_S = 48 * 3600
CODE_LIFETIME_S = 600
AUTH = "auth.globus.org"
VIEW_IDENTITIES = "urn:globus:auth:scope:auth.globus.org:view_identities"
GLADIER_NATIVE_CLIENT = "f1631610-d9e4-4db2-81ba-7f93ad4414e3"

_COLLECTIONS = (
    sdk_scopes.AuthScopes,
    sdk_scopes.ComputeScopes,
    sdk_scopes.FlowsScopes,
    sdk_scopes.GroupsScopes,
    sdk_scopes.SearchScopes,
    sdk_scopes.TransferScopes,
)


@dataclass(frozen=True)
class Identity:
    """A person or a service account."""

    id: str
    username: str
    name: str
    email: str | None

    @property
    def urn(self) -> str:
        return f"urn:globus:auth:identity:{self.id}"


@dataclass(frozen=True)
class _Client:
    id: str
    name: str
    secret: str | None


@dataclass
class _Consent:
    """One scope that a person let a client have, with the scopes that depend on it."""

    number: int
    scope: str
    client: str
    optional: bool
    created: str
    children: dict[str, _Consent] = field(default_factory=dict)


@dataclass
class _Grant:
    """What an access or a refresh token stands for."""

    identity_id: str
    client_id: str
    scopes: tuple[str, ...]
    resource_server: str
    expires: float


@dataclass(frozen=True)
class _Code:
    identity_id: str
    client_id: str
    redirect_uri: str
    challenge: str | None
    scopes: tuple[Scope, ...]
    offline: bool
    state: str | None
    expires: float


@dataclass(frozen=True)
class _KnownScope:
    resource_server: str
    dependencies: tuple[str, ...] = ()


class AuthService:
    """The part that answers /v2/oauth2, /v2/api, /v2/web, /jwk.json and /.well-known.

    Its `issuer` is the address of the server, to be set once that has a port.
    """

    prefixes: tuple[str, ...] = ("/v2/oauth2/", "/v2/api/", "/v2/web/", "/jwk.json", "/.well-known/")

    def __init__(self) -> None:
        self.issuer = ""
        self._lock = threading.RLock()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._identities: dict[str, Identity] = {}
        self._clients: dict[str, _Client] = {}
        self._scopes = {str(scope): _KnownScope(of.resource_server) for of in _COLLECTIONS for scope in _all_scopes(of)}
        self._consents: dict[tuple[str, str], dict[str, _Consent]] = {}
        self._consent_number = 100000
        self._access: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}
        self._codes: dict[str, _Code] = {}
        self._people: list[str] = []
        self.add_native_app("Gladier", GLADIER_NATIVE_CLIENT)

    # --- What tests set up

    def add_person(self, username: str, name: str | None = None, email: str | None = None) -> Identity:
        """A person who can log in."""
        identity = Identity(str(uuid.uuid4()), username, name or username.partition("@")[0], email or username)
        with self._lock:
            self._identities[identity.id] = identity
            self._people.append(identity.id)
        return identity

    def add_service_account(self, name: str = "service account") -> tuple[str, str]:
        """A confidential client: its id, which is its identity's too, and its secret."""
        client = _Client(str(uuid.uuid4()), name, secrets.token_urlsafe(32))
        with self._lock:
            self._clients[client.id] = client
            username = f"{client.id}@clients.auth.globus.org"
            self._identities[client.id] = Identity(client.id, username, name, None)
        return client.id, client.secret or ""

    def add_native_app(self, name: str, client_id: str | None = None) -> str:
        """An application without a secret, in which people log in."""
        client = _Client(client_id or str(uuid.uuid4()), name, None)
        with self._lock:
            self._clients[client.id] = client
        return client.id

    def register_scope(self, scope: str, resource_server: str, dependencies: Iterable[str] = ()) -> None:
        """Make a scope known; who consents to it consents to its dependencies too."""
        with self._lock:
            self._scopes[scope] = _KnownScope(resource_server, tuple(dependencies))

    def forget_scope(self, scope: str) -> None:
        """Take a scope back: its flow or collection is gone."""
        with self._lock:
            self._scopes.pop(scope, None)

    def expire_tokens(self, identity_id: str | None = None) -> int:
        """Let every access token (of one identity) expire now; how many. Refresh tokens stay good."""
        return self._end(self._access, identity_id)

    def revoke_refresh_tokens(self, identity_id: str | None = None) -> int:
        """End every refresh token (of one identity), as an administrator may; how many."""
        return self._end(self._refresh, identity_id)

    def _end(self, tokens: dict[str, _Grant], identity_id: str | None) -> int:
        now, ended = time.time(), 0
        with self._lock:
            for grant in tokens.values():
                if identity_id in (None, grant.identity_id) and grant.expires > now:
                    grant.expires = now
                    ended += 1
        return ended

    @property
    def issued_tokens(self) -> list[str]:
        """Every token that is good now, for tests that look for them where they must not be."""
        with self._lock:
            return [*self._access, *self._refresh]

    def withdraw_consents(self, identity_id: str, client_id: str | None = None) -> None:
        """Take a person's consents back, and with them the tokens that rest on them."""
        with self._lock:
            for key in [key for key in self._consents if key[0] == identity_id and client_id in (None, key[1])]:
                del self._consents[key]
            for tokens in (self._access, self._refresh):
                for token in [
                    token
                    for token, grant in tokens.items()
                    if grant.identity_id == identity_id and client_id in (None, grant.client_id)
                ]:
                    del tokens[token]

    # --- What the other parts ask

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; ``None`` where it is unknown, expired or revoked."""
        with self._lock:
            grant = self._access.get(token)
            if grant is None or grant.expires <= time.time():
                return None
            identity = self._identities[grant.identity_id]
            return Caller(
                identity_id=identity.id,
                username=identity.username,
                client_id=grant.client_id,
                scopes=frozenset(grant.scopes),
                consents=self.consents(identity.id, grant.client_id),
                resource_server=grant.resource_server,
                email=identity.email,
            )

    def consents(self, identity_id: str, client_id: str) -> Consents:
        """The tree of what a person lets a client have now."""
        with self._lock:
            return _tree(self._consents.get((identity_id, client_id), {}))

    def identity(self, identity_id: str) -> Identity | None:
        """A person or service account by id."""
        with self._lock:
            return self._identities.get(identity_id)

    # --- HTTP

    def handle(self, request: Request) -> Response:
        """Answer a request."""
        routes = {
            ("POST", "/v2/oauth2/token"): self._token,
            ("POST", "/v2/oauth2/token/revoke"): self._revoke,
            ("GET", "/v2/oauth2/authorize"): self._authorize,
            ("GET", "/v2/oauth2/userinfo"): self._userinfo,
            ("GET", "/v2/web/auth-code"): self._code_page,
            ("GET", "/v2/api/identities"): self._find_identities,
            ("GET", "/.well-known/openid-configuration"): self._configuration,
            ("GET", "/jwk.json"): self._jwk,
        }
        route = routes.get((request.method, request.path))
        if route is not None:
            return route(request)
        parts = request.path.strip("/").split("/")
        if request.method == "GET" and parts[:3] == ["v2", "api", "identities"] and parts[4:] == ["consents"]:
            return self._list_consents(request, parts[3])
        raise _error(404, "RESOURCE_NOT_FOUND", f"{request.method} {request.path} is not in the stand-in")

    def _configuration(self, request: Request) -> Response:
        return Response(
            200,
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/v2/oauth2/authorize",
                "userinfo_endpoint": f"{self.issuer}/v2/oauth2/userinfo",
                "token_endpoint": f"{self.issuer}/v2/oauth2/token",
                "revocation_endpoint": f"{self.issuer}/v2/oauth2/token/revoke",
                "jwks_uri": f"{self.issuer}/jwk.json",
                "response_types_supported": ["code"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "scopes_supported": ["openid", "email", "profile"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "subject_types_supported": ["public"],
            },
        )

    def _jwk(self, request: Request) -> Response:
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return Response(200, {"keys": [{**key, "use": "sig", "alg": "RS256", "kid": "stand-in"}]})

    def _token(self, request: Request) -> Response:
        form = _form(request)
        grant = form.get("grant_type")
        if grant == "client_credentials":
            return self._client_credentials(request, form)
        if grant == "authorization_code":
            return self._exchange_code(request, form)
        if grant == "refresh_token":
            return self._refresh_access(request, form)
        raise ServiceError(400, {"error": "unsupported_grant_type", "error_description": f"grant_type {grant!r}"})

    def _client_credentials(self, request: Request, form: Mapping[str, str]) -> Response:
        client = self._authenticated_client(request)
        scopes = self._parse_scopes(form.get("scope", ""))
        with self._lock:
            self._consent(client.id, client.id, scopes)
            return Response(200, self._tokens(client.id, client.id, scopes, offline=False, state=None))

    def _exchange_code(self, request: Request, form: Mapping[str, str]) -> Response:
        client = self._client_of(request, form)
        with self._lock:
            # A code works once, whatever comes of it.
            code = self._codes.pop(form.get("code", ""), None)
            if code is None or code.expires <= time.time() or code.client_id != client.id:
                raise ServiceError(401, {"error": "invalid_grant"})
            if code.redirect_uri != form.get("redirect_uri"):
                raise ServiceError(401, {"error": "invalid_grant", "error_description": "another redirect_uri"})
            if code.challenge is not None and code.challenge != _challenge(form.get("code_verifier", "")):
                raise ServiceError(401, {"error": "invalid_grant", "error_description": "code_verifier does not fit"})
            return Response(
                200, self._tokens(code.identity_id, client.id, code.scopes, offline=code.offline, state=code.state)
            )

    def _refresh_access(self, request: Request, form: Mapping[str, str]) -> Response:
        client = self._client_of(request, form)
        with self._lock:
            token = form.get("refresh_token", "")
            grant = self._refresh.get(token)
            if grant is None or grant.expires <= time.time() or grant.client_id != client.id:
                raise ServiceError(400, {"error": "invalid_grant"})
            document = self._access_token(grant)
            return Response(200, {**document, "refresh_token": token, "other_tokens": []})

    def _tokens(
        self, identity_id: str, client_id: str, scopes: Iterable[Scope], *, offline: bool, state: str | None
    ) -> Json:
        """The answer of the token route: a token for each resource server, the first one outermost."""
        by_server: dict[str, list[str]] = {}
        for scope in scopes:
            by_server.setdefault(self._scopes[scope.scope_string].resource_server, []).append(scope.scope_string)
        documents = []
        for server, names in by_server.items():
            grant = _Grant(identity_id, client_id, tuple(dict.fromkeys(names)), server, 0)
            document = self._access_token(grant)
            if state is not None:
                document["state"] = state
            if offline:
                token = f"R{secrets.token_urlsafe(48)}"
                self._refresh[token] = _Grant(identity_id, client_id, grant.scopes, server, float("inf"))
                document["refresh_token"] = token
            documents.append(document)
        first, others = documents[0], documents[1:]
        auth_scopes = by_server.get(AUTH, [])
        if "openid" in auth_scopes:
            first["id_token"] = self._id_token(identity_id, client_id, auth_scopes)
        return {**first, "other_tokens": others}

    def _access_token(self, grant: _Grant) -> dict[str, Any]:
        token = f"A{secrets.token_urlsafe(48)}"
        self._access[token] = _Grant(
            grant.identity_id, grant.client_id, grant.scopes, grant.resource_server, time.time() + TOKEN_LIFETIME_S
        )
        return {
            "access_token": token,
            "scope": " ".join(grant.scopes),
            "expires_in": TOKEN_LIFETIME_S,
            "token_type": "Bearer",
            "resource_server": grant.resource_server,
        }

    def _id_token(self, identity_id: str, client_id: str, scopes: Iterable[str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": client_id,
            "iat": now,
            "exp": now + TOKEN_LIFETIME_S,
            "last_authentication": now,
            **_claims(self._identities[identity_id], scopes),
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "stand-in"})

    def _authorize(self, request: Request) -> Response:
        """The page where a person lets an application in. Here a person always agrees."""
        query = request.query
        client = self._clients.get(query.get("client_id", ""))
        if client is None:
            raise _error(400, "INVALID_CLIENT", "unknown client_id")
        if query.get("response_type") != "code" or not query.get("redirect_uri"):
            raise _error(400, "INVALID_REQUEST", "response_type=code and a redirect_uri are needed")
        if client.secret is None and (not query.get("code_challenge") or query.get("code_challenge_method") != "S256"):
            raise _error(400, "INVALID_REQUEST", "a native app needs PKCE with S256")
        scopes = self._parse_scopes(query.get("scope", ""))
        identity = self._person(query.get("person") or request.headers.get("x-person"))
        if identity is None:
            return self._choose_person(request)
        code = secrets.token_urlsafe(24)
        offline = query.get("access_type") == "offline"
        with self._lock:
            self._consent(identity.id, client.id, scopes)
            self._codes[code] = _Code(
                identity.id,
                client.id,
                query["redirect_uri"],
                query.get("code_challenge"),
                tuple(scopes),
                offline,
                query.get("state"),
                time.time() + CODE_LIFETIME_S,
            )
        target = query["redirect_uri"]
        answer = urllib.parse.urlencode({"code": code, "state": query.get("state", "")})
        return Response(302, "", {"Location": f"{target}{'&' if '?' in target else '?'}{answer}"})

    def _person(self, username: str | None) -> Identity | None:
        """The person named; where none is named, the only one there is."""
        people = [self._identities[person] for person in self._people]
        if username is None:
            return people[0] if len(people) == 1 else None
        found = [person for person in people if username in (person.username, person.id)]
        if not found:
            raise _error(400, "INVALID_REQUEST", f"there is no person {username}")
        return found[0]

    def _choose_person(self, request: Request) -> Response:
        names = [self._identities[person].username for person in self._people]
        links = [
            f'<li><a href="{request.path}?{html.escape(urllib.parse.urlencode({**request.query, "person": name}))}">'
            f"{html.escape(name)}</a></li>"
            for name in names
        ]
        return Response(200, f"<!doctype html><title>Log in</title><p>Log in as</p><ul>{''.join(links)}</ul>")

    def _code_page(self, request: Request) -> Response:
        code = html.escape(request.query.get("code", ""))
        return Response(200, f'<!doctype html><title>Code</title><p>Your code: <code id="code">{code}</code></p>')

    def _revoke(self, request: Request) -> Response:
        form = _form(request)
        client = self._client_of(request, form)
        token = form.get("token", "")
        with self._lock:
            for tokens in (self._access, self._refresh):
                if token in tokens and tokens[token].client_id == client.id:
                    del tokens[token]
        return Response(200, {"active": False})

    def _userinfo(self, request: Request) -> Response:
        caller = self._authorized(request, "openid")
        identity = self._identities[caller.identity_id]
        of_set = {
            "sub": identity.id,
            "username": identity.username,
            "name": identity.name,
            "email": identity.email,
            "organization": None,
            "identity_provider": str(uuid.UUID(int=1)),
            "identity_provider_display_name": "Stand-in",
            "last_authentication": None,
        }
        return Response(200, {**_claims(identity, caller.scopes), "identity_set": [of_set]})

    def _find_identities(self, request: Request) -> Response:
        if request.headers.get("authorization", "").startswith("Basic "):
            self._authenticated_client(request)
        else:
            self._authorized(request, VIEW_IDENTITIES)
        query = request.query
        if ("ids" in query) == ("usernames" in query):
            raise _error(400, "INVALID_PARAMETER", "either ids or usernames is needed")
        wanted = (query.get("ids") or query.get("usernames") or "").split(",")
        with self._lock:
            found = [one for one in self._identities.values() if (one.id if "ids" in query else one.username) in wanted]
        return Response(200, {"identities": [_identity_document(one) for one in found]})

    def _list_consents(self, request: Request, identity_id: str) -> Response:
        caller = self._authorized(request, None)
        if identity_id != caller.identity_id:
            raise _error(403, "FORBIDDEN", "the consents of another identity")
        with self._lock:
            tree = self._consents.get((identity_id, caller.client_id), {})
            return Response(200, {"consents": list(_consent_documents(tree.values(), (), identity_id))})

    # --- Checks

    def _authorized(self, request: Request, scope: str | None) -> Caller:
        caller = request.caller
        if caller is None:
            raise _error(401, "UNAUTHORIZED", "Call must be authenticated")
        if caller.resource_server != AUTH or (scope is not None and scope not in caller.scopes):
            raise _error(403, "FORBIDDEN", f"The token lacks the scope {scope or 'of Globus Auth'}")
        return caller

    def _authenticated_client(self, request: Request) -> _Client:
        """The client of a request's Basic authorization."""
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            client_id, secret = "", ""
        client = self._clients.get(client_id)
        expected = client.secret if client is not None else None
        given = secret if kind == "Basic" else ""
        if client is None or expected is None or not secrets.compare_digest(expected.encode(), given.encode()):
            document = _error(401, "UNAUTHORIZED", "Bad client id or secret").document
            raise ServiceError(401, {**document, "error": "invalid_client"})
        return client

    def _client_of(self, request: Request, form: Mapping[str, str]) -> _Client:
        """A confidential client by Basic authorization, or a native one by its id in the form."""
        if "authorization" in request.headers:
            return self._authenticated_client(request)
        client = self._clients.get(form.get("client_id", ""))
        if client is None or client.secret is not None:
            raise ServiceError(401, {"error": "invalid_client"})
        return client

    def _parse_scopes(self, text: str) -> list[Scope]:
        try:
            scopes = ScopeParser.parse(text)
        except GlobusSDKUsageError as error:
            raise ServiceError(400, {"error": "invalid_scope", "error_description": f"{error}"}) from error
        if not scopes:
            raise ServiceError(400, {"error": "invalid_scope", "error_description": "no scope was asked for"})
        with self._lock:
            unknown = sorted({name for scope in scopes for name in _names(scope) if name not in self._scopes})
        if unknown:
            said = f"Unknown scope(s) requested: {', '.join(unknown)}"
            document = {**_error(400, "UNKNOWN_SCOPE_ERROR", said).document, "error": "unknown_scope"}
            raise ServiceError(400, {**document, "error_description": said})
        return scopes

    # --- Consents

    def _consent(self, identity_id: str, client_id: str, scopes: Iterable[Scope]) -> None:
        for scope in scopes:
            self._add_consent(self._consents.setdefault((identity_id, client_id), {}), scope, client_id)

    def _add_consent(self, tree: dict[str, _Consent], scope: Scope, client_id: str) -> None:
        name = scope.scope_string
        if name not in tree:
            self._consent_number += 1
            tree[name] = _Consent(self._consent_number, name, client_id, scope.optional, _now())
        known = self._scopes[name]
        for dependency in (*scope.dependencies, *(Scope(one) for one in known.dependencies)):
            self._add_consent(tree[name].children, dependency, _service_client(known.resource_server))


def _all_scopes(collection: Any) -> Iterator[Scope]:
    for name in dir(collection):
        value = getattr(collection, name)
        if isinstance(value, Scope):
            yield value


def _names(scope: Scope) -> Iterator[str]:
    yield scope.scope_string
    for dependency in scope.dependencies:
        yield from _names(dependency)


def _tree(consents: Mapping[str, _Consent]) -> Consents:
    return {name: _tree(consent.children) for name, consent in consents.items()}


def _service_client(resource_server: str) -> str:
    """Client id of a service; of a flow or a collection it is the resource server itself."""
    try:
        return str(uuid.UUID(resource_server))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, resource_server))


def _consent_documents(consents: Iterable[_Consent], path: tuple[int, ...], identity_id: str) -> Iterator[Json]:
    for consent in consents:
        here = (*path, consent.number)
        yield {
            "id": consent.number,
            "client": consent.client,
            "scope": str(uuid.uuid5(uuid.NAMESPACE_URL, consent.scope)),
            "scope_name": consent.scope,
            "effective_identity": identity_id,
            "dependency_path": list(here),
            "created": consent.created,
            "updated": consent.created,
            "last_used": consent.created,
            "status": "approved",
            "allows_refresh": True,
            "auto_approved": False,
            "atomically_revocable": consent.optional,
        }
        yield from _consent_documents(consent.children.values(), here, identity_id)


def _claims(identity: Identity, scopes: Iterable[str]) -> dict[str, Any]:
    """What an identity shows of itself: more with the scopes ``profile`` and ``email``."""
    claims: dict[str, Any] = {"sub": identity.id}
    if "profile" in scopes:
        claims |= {"name": identity.name, "preferred_username": identity.username, "organization": None}
        claims |= {"identity_provider": str(uuid.UUID(int=1)), "identity_provider_display_name": "Stand-in"}
    if "email" in scopes:
        claims["email"] = identity.email
    return claims


def _identity_document(identity: Identity) -> Json:
    return {
        "id": identity.id,
        "username": identity.username,
        "name": identity.name,
        "email": identity.email,
        "organization": None,
        "identity_provider": str(uuid.UUID(int=1)),
        "identity_type": "login",
        "status": "used",
    }


def _form(request: Request) -> dict[str, str]:
    if not isinstance(request.body, dict):
        raise ServiceError(400, {"error": "invalid_request", "error_description": "a form is needed"})
    return request.body


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _error(status: int, code: str, detail: str) -> ServiceError:
    title = code.replace("_", " ").capitalize()
    said = {"status": str(status), "id": str(uuid.uuid4()), "code": code, "detail": detail, "title": title}
    return ServiceError(status, {"errors": [said], "error": code.lower(), "error_description": title})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
