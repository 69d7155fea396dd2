"""Who may talk to the viewer: a page of its own, opened with the address that the command printed.

Three things keep others out. The name in the Host header must be one of this machine's loopback, so
that no site can point a name of its own here. Whoever has not come with the token of the address has
no cookie. And what changes something or reads labels needs a second token, which only the page itself
knows: cookies of loopback are shared by all ports, so one alone would let other local pages write.
"""

from __future__ import annotations

import hashlib
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEADER = "x-insideout-token"

_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "media-src 'self'",
        "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware that answers strangers itself, and puts the same headers on every answer.

    `token` is in the address the user opens and then in a cookie; `page_token` is written into the page
    and comes back in a header with every call of the API.
    """

    def __init__(self, app: ASGIApp, token: str, page_token: str) -> None:
        self._app, self._token, self._page_token = app, token, page_token
        # Cookies of loopback are shared by all ports: each viewer that runs here needs a name of its own.
        self._cookie = f"insideout_view_{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":  # there are no sockets to be opened, and start and end need no guard
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in LOOPBACK:
            return PlainTextResponse("This is a local server: open it as 127.0.0.1 or localhost.\n", 421)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("Calls from other pages are refused.\n", 403)
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        # A link on another page may lead here; it gets nothing but the page, and that not by its script.
        if foreign and (scope["path"] != "/" or headers.get("sec-fetch-mode") != "navigate"):
            return PlainTextResponse("Calls from other pages are refused.\n", 403)
        if scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
            if given and _same(given, self._token):
                # Out of the address, the history and what is copied from them.
                found = RedirectResponse("/", 303)
                found.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
                return found
        if not _same(_cookie(headers, self._cookie), self._token):
            return PlainTextResponse(
                "This page opens with the whole address that `insideout view` printed, token included.\n", 403
            )
        if scope["path"].startswith("/api/") and not _same(headers.get(HEADER, ""), self._page_token):
            return PlainTextResponse("Only the page itself may call this.\n", 403)
        return None


def _name(host: str) -> str:
    """The host of a Host header without its port."""
    return (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]).lower()


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return found[name].value if name in found else ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
