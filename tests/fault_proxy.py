"""A proxy in front of an S3 server that answers badly when a test wants it to."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
import s3fs
from fsspec.config import conf, set_conf_env

from tests.object_storage import s3_server

#: The name of a fault for a request, or None to pass it on: method, path and number of the request.
Fault = Callable[[str, str, int], "str | None"]
_SLOW_S = 2.0
_ERRORS = {
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied."),
}
#: Headers that concern one connection only.
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class FaultProxy:
    """`fault` may be replaced at any time; `hits` counts the faults by name, `requests` are (method, path, range).

    Faults: `503`, `500`, `expired`, `denied` are answered without asking the server; `slow` waits two
    seconds; `cut` breaks the connection in the middle of the body, or before an empty one; `refuse`
    breaks it before any answer, and the server has not seen the request.
    """

    url: str
    fault: Fault = lambda method, path, number: None
    hits: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def faulty_s3(folder: Path) -> Iterator[FaultProxy]:
    """An S3 server behind a proxy, which this process and those it starts use for s3:// meanwhile."""
    with (
        s3_server(folder) as environment,
        fault_proxy(environment["FSSPEC_S3_ENDPOINT_URL"]) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        environment["FSSPEC_S3_ENDPOINT_URL"] = proxy.url
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setitem(conf, "s3", {})
        set_conf_env(conf, environment)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def fault_proxy(server: str) -> Iterator[FaultProxy]:
    """Run a proxy for the server at this URL on a free port of loopback."""
    target = urlsplit(server).netloc
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.1"

        def log_message(self, format: str, *values: object) -> None:
            """Say nothing."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the client has gone
                self.close_connection = True

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                number = len(proxy.requests)
                proxy.requests.append((self.command, self.path, self.headers.get("Range") or ""))
                name = proxy.fault(self.command, self.path, number)
                if name:
                    proxy.hits[name] += 1
            if name in _ERRORS:
                status, code, message = _ERRORS[name]
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                self._answer(status, [("Content-Type", "application/xml")], text)
                return
            if name == "refuse":
                self.close_connection = True
                return
            if name == "slow":
                time.sleep(_SLOW_S)
            upstream = http.client.HTTPConnection(target, timeout=60)
            try:
                # The host that the client signed stays: the server checks the signature against it.
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for key, value in self.headers.items():
                    if key.lower() not in ("connection", "expect"):
                        upstream.putheader(key, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                length = [] if self.command != "HEAD" else [("Content-Length", answer.headers["Content-Length"] or "0")]
                headers = [(key, value) for key, value in answer.getheaders() if key.lower() not in _HOP]
                self._answer(answer.status, headers + length, data, cut=name == "cut")
            finally:
                upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            for key, value in headers:
                self.send_header(key, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if cut:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        proxy = FaultProxy(f"http://127.0.0.1:{listening.server_address[1]}")
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            listening.shutdown()
