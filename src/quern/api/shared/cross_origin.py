"""Which names the server answers to, and which web pages may use it.

Whoever can reach a loopback server can use it, and every web page that somebody opens can reach it, in two ways: it
sends requests across origins, which a browser delivers although it hides the answers; or its name is made to resolve to
this machine (DNS rebinding), and then the answers are its own. Against the second only names of this machine are
served, against the first no page of another origin, unless settings say otherwise. Programs that are no browsers send
neither `Origin` nor `Sec-Fetch-Site`.

Sources: the Fetch standard ("HTTP extensions", "CORS protocol"), Fetch Metadata Request Headers, RFC 6761 on
`localhost`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from quern.api.shared.errors import ErrorKind, Failure, StyleOf
from quern.config import ServerSettings
from quern.http_server.control_socket import is_local

LOOPBACK_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)
FROM_CONTAINERS = frozenset({"host.docker.internal", "host.containers.internal"})
"""What Docker and Podman call the machine, inside of a container; their own resolvers answer to it."""

EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "retry-after",
    "x-should-retry",
    "x-quern-adopted",
    "x-quern-ended",
    "x-quern-ignored",
    "x-quern-turn-id",
    "www-authenticate",
    *(f"x-ratelimit-{value}-{what}" for what in ("requests", "tokens") for value in ("limit", "remaining", "reset")),
)
"""Headers of answers that a page may read besides those that it always may."""

PREFLIGHT_SECONDS = 600
LONGEST_QUOTED = 100


class ServedHosts:
    """The names in `Host` that are served: this machine's own, and those of `server.hosts`.

    `closed`: whether nobody comes in without a key. Then a name protects nothing, and unless the settings name some,
    any is served.
    """

    def __init__(self, settings: ServerSettings, closed: Callable[[], bool] = lambda: False) -> None:
        self._closed = closed
        self._named = settings.hosts
        self._loopback = settings.loopback
        names = {*LOOPBACK_NAMES, *FROM_CONTAINERS, settings.host.lower().rstrip(".")}
        if not settings.loopback:
            own = socket.gethostname().lower().rstrip(".")
            names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        self._names = names

    def serves(self, host: str) -> bool:
        """Whether a request may name this host, with or without a port."""
        if self._closed() and not self._named:
            return True
        name = host_name(host)
        if name is None:
            return "*" in self._named
        return name in self._names or name.endswith(".localhost") or self._is_named(name) or self._is_own_address(name)

    def _is_named(self, name: str) -> bool:
        return any(
            pattern in {"*", name} or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self._named
        )

    def _is_own_address(self, name: str) -> bool:
        """An address is nobody's name, so no page can have it as its own. A loopback listener has loopback's only."""
        try:
            address = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return not self._loopback or address.is_loopback or address.is_unspecified


def host_name(host: str) -> str | None:
    """A `Host` without its port and in lower case; None where it is none."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]*))(?::\d*)?", host.strip())
    return (match[1] or match[2]).lower().rstrip(".") if match else None


class Origins:
    """The origins of `server.cors_origins`; a star in one stands for any part of it."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.any = "*" in patterns
        named = "|".join(re.escape(pattern).replace(r"\*", "[^/]*") for pattern in patterns if pattern != "*")
        self.pattern = f"(?i:{named})" if named else "(?!)"
        self._match = re.compile(self.pattern).fullmatch

    def __contains__(self, origin: str) -> bool:
        return self.any or self._match(origin) is not None


def _cors(app: ASGIApp, origins: Origins, methods: Iterable[str] = ()) -> CORSMiddleware:
    return CORSMiddleware(
        app,
        allow_origins=["*"] if origins.any else [],
        allow_origin_regex=None if origins.any else origins.pattern,
        allow_methods=[*methods],
        allow_headers=["*"],
        allow_private_network=True,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_SECONDS,
    )


class CorsHeaders:
    """Tells browsers which pages may read an answer, whatever it is. Pure ASGI, so that streams pass untouched."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._cors = _cors(app, origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._cors.simple_response(scope, receive, send, request_headers=Headers(scope=scope))


class CrossOrigin:
    """Refuses hosts that are not served and pages that are not allowed, and answers preflights of those that are.

    `methods_of`: the methods of a path, none where nothing is known there. `is_open`: whether a link on any page may
    lead to a path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: ServedHosts,
        origins: Origins,
        methods_of: Callable[[str], Collection[str]],
        is_open: Callable[[str], bool],
        style_of: StyleOf,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._methods_of = methods_of
        self._is_open = is_open
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # At the control socket there is no name to pretend to be: clients of Unix sockets name any host, or none.
        failure = (None if is_local(scope) else self._foreign_host(headers)) or self._foreign_page(scope, headers)
        if failure is not None:
            await self._style_of(scope["path"]).response(failure)(scope, receive, send)
        elif self._is_preflight(scope, headers):
            methods = self._methods_of(scope["path"]) or {headers["access-control-request-method"]}
            await _cors(self._app, self._origins, sorted(methods)).preflight_response(headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_preflight(self, scope: Scope, headers: Headers) -> bool:
        """Whether a page of another origin asks what it may do. One of our own need not ask."""
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        return asks and headers.get("origin", "") in self._origins

    def _foreign_host(self, headers: Headers) -> Failure | None:
        foreign = next((host for host in headers.getlist("host") if host and not self._hosts.serves(host)), None)
        if foreign is None:
            return None
        quoted = (host_name(foreign) or foreign)[:LONGEST_QUOTED]
        return Failure(
            ErrorKind.FORBIDDEN,
            f"The request is for the host {quoted!r}, which is none of this machine's names, so it may come from a web "
            f"page that only pretends to be here. Use localhost or this machine's address, or add the name to the "
            f"setting server.hosts.",
            field="host",
        )

    def _foreign_page(self, scope: Scope, headers: Headers) -> Failure | None:
        origins = headers.getlist("origin")
        foreign = [origin for origin in origins if origin not in self._origins and not _is_own(origin, headers)]
        site = headers.get("sec-fetch-site", "").strip().lower()
        if foreign:
            page = f"A web page of the origin {foreign[0][:LONGEST_QUOTED]!r}"
        elif site in {"cross-site", "same-site"} and not origins and not self._origins.any:
            if self._follows_link(scope, headers):
                return None
            page = "A web page of another origin"
        elif site == "cross-site" and not any(origin in self._origins for origin in origins) and not self._origins.any:
            page = "A web page of another site"
        else:
            return None
        return Failure(
            ErrorKind.FORBIDDEN,
            f"{page} sent this request, and pages of other origins may not use this server. If this one may, add its "
            f"origin to the setting server.cors_origins.",
            field="origin",
        )

    def _follows_link(self, scope: Scope, headers: Headers) -> bool:
        """Whether somebody follows a link to a page that shows nobody's data; the page with the link can't read it."""
        fetch = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
        safe = scope["method"] in {"GET", "HEAD"} and fetch == ("navigate", "document")
        return safe and self._is_open(scope["path"])


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether a page comes from the host and port that its request is for; a proxy may speak HTTPS before us."""
    scheme, separator, authority = origin.lower().partition("://")
    if not separator or scheme not in {"http", "https"}:
        return False
    default = {"http": ":80", "https": ":443"}[scheme]
    hosts = {host.strip().lower().removesuffix(default) for host in headers.getlist("host")}
    return hosts == {authority.removesuffix(default)}
