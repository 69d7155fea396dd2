"""Credentials: passwords in URLs are refused, signed URLs are opened and never shown, stored or logged."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from insideout.errors import DataError, FilmError, InsideoutError, UsageError
from insideout.film import Sampling, open_film
from insideout.isolate import Trouble, _how, quarantine
from insideout.manifest import write_films
from insideout.messages import LEFT_OUT, without_credentials
from insideout.packs import load_pack
from insideout.plan import LabelSettings, fingerprint, open_output, plan_film
from insideout.report.words import plain
from insideout.sources import find_films
from insideout.store import Store
from pipelines.cli import app
from pipelines.cli_train import absolute
from pipelines.summary import status_lines
from tests.media import write_film

SECRET = "5ec5e7"
SIGNED = f"?X-Amz-Credential=AKIA{SECRET}%2Feu&X-Amz-Signature={SECRET}ab"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_film(tmp_path_factory.mktemp("film") / "film.mkv", 24).read_bytes()


@pytest.fixture(scope="module")
def address(film: bytes) -> Iterator[str]:
    """A server that gives the film, by range, to those who have the signature."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if SECRET not in self.path:
                return self.send_error(403)
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = (int(wanted[1]), int(wanted[2] or len(film) - 1)) if wanted else (0, len(film) - 1)
            part = film[start : end + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(film)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_signed_url_is_opened_and_only_its_path_is_shown_and_stored(tmp_path: Path, address: str, pack: Path) -> None:
    url = f"{address}/films/film.mkv{SIGNED}"
    shown = CliRunner().invoke(app, ["plan", url])
    assert shown.exit_code == 0, shown.exception
    assert f"{address}/films/film.mkv{LEFT_OUT}\n" in shown.output
    assert "24 frames" in shown.output
    assert SECRET not in shown.output

    loaded, settings, store = load_pack(pack, verify=False), LabelSettings(), Store(tmp_path / "out")
    plan = plan_film(url, settings, fingerprint(loaded, settings))
    (reel,) = plan.reels(Sampling.parse(settings.sampling), {span.index for span in plan.spans})
    assert reel.path == url  # what is sent to the workers can be opened
    open_output(store, loaded, settings, [plan.fold()])
    write_films(store, [plan.fold()], settings.sampling)
    quarantine(store, Trouble("decode", 4, None, "why"), reel, loaded)
    kept = f"{address}/films/film.mkv{LEFT_OUT}"
    assert store.read_json("plan.json")["films"][plan.film.film]["path"] == kept
    assert pq.read_table(tmp_path / "out/films.parquet")["path"].to_pylist() == [kept]
    (bundle,) = (tmp_path / "out/quarantine").rglob("*.json")
    assert kept in bundle.read_text()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
        assert "film.mkv" not in path.name  # places are named by digest


def test_what_goes_wrong_with_a_signed_url_is_told_without_it(address: str) -> None:
    refused = f"{address}/film.mkv?X-Amz-Signature=wrong-{SECRET[::-1]}"
    for attempt in (lambda: open_film(refused), lambda: find_films([refused])):
        with pytest.raises(FilmError) as error:
            attempt()
        assert SECRET[::-1] not in str(error.value)
        assert f"{address}/film.mkv" in str(error.value)
    for command in (["plan", refused], ["label", refused, "--pack", "packs/bbb", "--out", "nowhere"]):
        found = CliRunner().invoke(app, command)
        assert isinstance(found.exception, FilmError)
        assert SECRET[::-1] not in found.output + str(found.exception)


@pytest.mark.parametrize(
    "url",
    [f"s3://AKIA:{SECRET}@bucket/x", f"s3://AKIA:ab/{SECRET}+c=@bucket/x", f"https://me:{SECRET}@host:99/x",
     f"sftp://me:{SECRET}@host/x", f"simplecache::ftp://me:{SECRET}@host/x"],
)  # fmt: skip
def test_a_password_in_a_url_is_refused_everywhere(url: str, pack: Path, excerpt: Path) -> None:
    for command in (
        ["plan", url],
        ["label", url, "--pack", str(pack), "--out", "nowhere"],
        ["label", str(excerpt), "--pack", str(pack), "--out", url],
    ):
        found = CliRunner().invoke(app, command)
        assert isinstance(found.exception, UsageError), found.exception
        assert "holds a password or a secret key; take it out" in str(found.exception)
        assert SECRET not in found.output + str(found.exception)
    with pytest.raises(UsageError, match=r"AWS_SECRET_ACCESS_KEY or ~/\.aws"):
        absolute(url)  # which trainings and searches send their data and output through


def test_a_user_a_port_and_a_plain_path_are_no_password() -> None:
    for url in ("sftp://me@host/x", "http://host:8080/a@b/c", "s3://bucket/a:b@c", "/films/a:b@c.mp4"):
        absolute(url)
        assert without_credentials(url) == url.replace("me@", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"403, url='https://h/f.mp4?X-Amz-Signature={SECRET}'", "403, url='https://h/f.mp4?…'"),
        (f"https://h/a?b={SECRET}: no such file", "https://h/a?…: no such file"),
        (f"az://c/f.mp4?sv=1&sig={SECRET}%3D, again", "az://c/f.mp4?…, again"),
        (f"simplecache::https://h/f?token={SECRET}", "simplecache::https://h/f?…"),
        (f"s3://k:{SECRET}@b/f.mp4 is gone", "s3://b/f.mp4 is gone"),
        (f"https://h/my film?X-Amz-Security-Token={SECRET}&x=1", "https://h/my film?X-Amz-Security-Token=…&x=1"),
        ("s3://b/film?.mp4: matches no film", "s3://b/film?.mp4: matches no film"),
        ("/films/Who? token=1.mp4", "/films/Who? token=1.mp4"),
    ],
)
def test_credentials_go_out_of_every_text(text: str, says: str) -> None:
    assert without_credentials(text) == says
    assert without_credentials(says) == says
    for kind in (InsideoutError, FilmError, DataError):
        assert str(kind(text)) == says
        assert str(pickle.loads(pickle.dumps(kind(text)))) == says
    assert plain([text]) == says
    assert _how(1, f"Traceback\n  {text}\n") == says[:160]


def test_failures_of_a_signed_url_are_tried_again_with_the_url(tmp_path: Path, address: str, pack: Path) -> None:
    loaded, settings, store = load_pack(pack, verify=False), LabelSettings(), Store(tmp_path / "out")
    url = f"{address}/films/film.mkv{SIGNED}"
    plan = plan_film(url, settings, fingerprint(loaded, settings))
    open_output(store, loaded, settings, [plan.fold()])
    done = CliRunner().invoke(app, ["retry", str(tmp_path / "out"), "--pack", str(pack)])
    assert isinstance(done.exception, UsageError)
    assert "the query of a URL is never stored" in str(done.exception)
    assert "give its URL to `insideout label`" in str(done.exception)


def test_the_status_shows_no_credential_of_an_older_run() -> None:
    facts = {"summary": None, "spans_done": 0, "spans": 1, "samples": 1, "path": f"https://h/f.mp4?sig={SECRET}"}
    lines = "\n".join(status_lines({"films": {"f": facts}, "done": False}))
    assert "https://h/f.mp4?…" in lines
    assert SECRET not in lines
