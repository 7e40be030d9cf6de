"""Who may ask what. One rule per route, one place that decides.

- `OPEN`: `/healthz`.
- `SHELL`: the dashboard's page and files, which hold no data. The page asks for the token.
- `PROBE`: `/readyz`, `/metrics`: from this machine without, from elsewhere with the token.
- `TOKEN`: everything else, and every path that does not exist. When no token is set, only this machine may ask.
- `SUPERVISOR`: listening in, whispering, breaking in: with `web.supervisor_token`, from wherever; `web.token` does not open it.
- `SIGNED`: webhooks: the handler checks the signature, which is the credential.

"This machine" is a loopback peer whose request did not come through a proxy (no `Forwarded`, `X-Forwarded-For`, `X-Real-IP`, `Via`).
Without a token a browser on this machine could be led here by any web page: so then the `Host` must be a loopback name (DNS
rebinding), and requests that a browser marks as coming from another site are refused.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from enum import Enum
from urllib.parse import urlsplit

from kallglot_ari.peers import Networks, address
from kallglot_ari.settings import WebSettings
from kallglot_ari.web.problem import Problem

CHALLENGE = 'Bearer realm="kallglot-ari"'
"""`WWW-Authenticate`; for a bearer token no browser opens a dialogue of its own."""
PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Access(Enum):
    """The rule of a route."""

    OPEN = "open"
    SHELL = "shell"
    PROBE = "probe"
    TOKEN = "token"  # noqa: S105 - a rule's name
    SUPERVISOR = "supervisor"
    SIGNED = "signed"

    @property
    def known(self) -> bool:
        """Whether who is admitted knows a token, or is on this machine."""
        return self in (Access.PROBE, Access.TOKEN, Access.SUPERVISOR)


class Guard:
    """Decides from a request's peer, headers and query; knows nothing of the web framework."""

    def __init__(self, settings: WebSettings) -> None:
        self._token = settings.token.get_secret_value().encode()
        self._supervisor = settings.supervisor_token.get_secret_value().encode()
        self._networks = Networks(settings.allowed_ips)

    def admit(
        self,
        access: Access,
        peer: str,
        headers: Mapping[str, str],
        *,
        query_token: str = "",
        unsafe: bool = False,
    ) -> None:
        """Let the request pass.

        :param peer: IP address of the other end. :param query_token: a token from the query, for routes that take one.
        :param unsafe: the method changes something.
        :raises Problem: 401 (with the way to sign in) or 403.
        """
        self._allowed(peer)
        if access is Access.OPEN:
            return
        local = _loopback(peer) and not any(name in headers for name in PROXY_HEADERS)
        if unsafe or not self._token:
            _same_site(headers)
        if access is Access.SIGNED:
            return
        if access is Access.SUPERVISOR:
            self._supervises(headers)
            return
        if not self._token:
            if not local:
                raise Problem(403, "forbidden", "without web.token only this machine may ask; set one")
            _local_name(headers.get("Host", ""))
            return
        if access is Access.SHELL or (access is Access.PROBE and local):
            return
        if not self.knows_token(headers, query_token):
            raise Problem(
                401,
                "unauthorized",
                "expected the header Authorization: Bearer with web.token",
                headers={"WWW-Authenticate": CHALLENGE},
            )

    def _supervises(self, headers: Mapping[str, str]) -> None:
        _same_site(headers)
        if not self._supervisor:
            raise Problem(403, "forbidden", "without web.supervisor_token nobody may supervise; set one")
        if not _is(self._supervisor, headers):
            raise Problem(
                401,
                "unauthorized",
                "expected the header Authorization: Bearer with web.supervisor_token",
                headers={"WWW-Authenticate": 'Bearer realm="kallglot-ari supervisor"'},
            )

    @property
    def needs_token(self) -> bool:
        return bool(self._token)

    def knows_token(self, headers: Mapping[str, str], query_token: str = "") -> bool:
        """Whether the request carries the token: as bearer, as the password of basic authentication, or in the query."""
        if not self._token:
            return False
        return _is(self._token, headers, query_token)

    def _allowed(self, peer: str) -> None:
        if not self._networks.admit(peer):
            raise Problem(403, "forbidden", "this address is not in web.allowed_ips")


def _is(token: bytes, headers: Mapping[str, str], offered: str = "") -> bool:
    """Whether a request carries this token; `offered` is one from its query."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        offered = value.strip()
    elif scheme.lower() == "basic":
        try:
            offered = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except ValueError:  # no ASCII, no base64, or no UTF-8 in it
            return False
    return hmac.compare_digest(offered.encode("utf-8", "replace"), token)


def _loopback(peer: str) -> bool:
    found = address(peer)
    return found is not None and found.is_loopback


def _local_name(host: str) -> None:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if name != "localhost" and not _loopback(name):
        raise Problem(
            403, "forbidden", "expected a Host header that names this machine (localhost, 127.0.0.1 or [::1])"
        )


def _same_site(headers: Mapping[str, str]) -> None:
    """Browsers say where a request comes from; other clients send neither header."""
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Problem(403, "forbidden", "requests from another web site are refused")
    origin = headers.get("Origin")
    if origin is not None and _netloc(origin) != headers.get("Host", ""):
        raise Problem(403, "forbidden", "requests from another web site are refused")


def _netloc(url: str) -> str | None:
    """None: it is no URL, and so no site of ours."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None
