"""Object storage: a real S3 server on loopback, with a proxy in between that answers badly."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from insideout import objects
from insideout.decode import decode
from insideout.errors import FilmError, StorageError
from insideout.film import Film, Sampling, open_film
from insideout.sources import find_films
from insideout.spans import plan_reels
from insideout.store import Store
from tests.fault_proxy import FaultProxy, faulty_s3
from tests.media import numbered, write_film
from tests.object_storage import BUCKET

_BLOCK = 8 * 1024
FILM = f"s3://{BUCKET}/in/film.mkv"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 240 frames in groups of 12, several times as large as what is read at once in these tests."""
    options = {"g": "12", "crf": "10"}
    return write_film(tmp_path_factory.mktemp("film") / "film.mkv", 240, numbered(160, 96), options=options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, here: Path) -> Iterator[FaultProxy]:
    with faulty_s3(tmp_path_factory.mktemp("weed") / "data") as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "BLOCK_BYTES", _BLOCK)
        s3fs.S3FileSystem().put_file(str(here), FILM)
        yield proxy


@pytest.fixture
def proxy(server: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, without faults and without memory."""
    s3fs.S3FileSystem.clear_instance_cache()
    server.hits.clear()
    server.requests.clear()
    yield server
    server.fault = lambda method, path, number: None


def _digests(film: Film) -> list[tuple[int, bytes]]:
    reels = plan_reels(film, Sampling(every=4).ordinals(film), span_bytes=1, reel_samples=8)
    spans = [span for reel in reels for span in decode(reel)]
    assert not [reason for span in spans for reason in span.reasons if reason]
    return [
        (int(o), picture.tobytes()) for span in spans for o, picture in zip(span.ordinals, span.pictures, strict=True)
    ]


def test_a_film_is_read_by_range_and_is_the_same(here: Path, proxy: FaultProxy) -> None:
    size = here.stat().st_size
    assert size > 10 * _BLOCK
    local, film = open_film(str(here)), open_film(FILM)
    assert (film.film, film.bytes) == (local.film, size)
    assert film.pts.tolist() == local.pts.tolist()
    proxy.requests.clear()
    reels = plan_reels(film, Sampling(every=4).ordinals(film), span_bytes=1, reel_samples=8)
    (span,) = decode(reels[-1])
    asked = [ranges for method, _, ranges in proxy.requests if method == "GET" and ranges]
    fetched = sum(int(last) - int(first) + 1 for first, last in (r.removeprefix("bytes=").split("-") for r in asked))
    assert 0 < fetched < size / 2, asked
    assert [int(o) for o in span.ordinals] == [o for o, _ in _digests(local)][-len(span.ordinals) :]
    assert _digests(film) == _digests(local)


@pytest.mark.parametrize("kind", ["503", "500", "cut", "refuse"])
def test_what_goes_wrong_for_a_while_changes_nothing(kind: str, here: Path, proxy: FaultProxy) -> None:
    dice = random.Random(kind)
    proxy.fault = lambda method, path, number: kind if method == "GET" and dice.random() < 0.3 else None
    film = open_film(FILM)
    assert film.film == open_film(str(here)).film
    assert _digests(film) == _digests(open_film(str(here)))
    assert proxy.hits[kind] >= 3


def test_a_film_that_cannot_be_read_any_more_is_no_shorter_film(proxy: FaultProxy) -> None:
    film = open_film(FILM)
    reels = plan_reels(film, Sampling(every=4).ordinals(film), reel_samples=1000)
    s3fs.S3FileSystem.clear_instance_cache()
    started = len(proxy.requests)
    proxy.fault = lambda method, path, number: "expired" if method == "GET" and number >= started + 3 else None
    frames: list[str | None] = []

    def decode_all() -> None:
        for reel in reels:
            for span in decode(reel):
                frames.extend(span.reasons)

    with pytest.raises(StorageError) as failure:
        decode_all()
    assert "s3://films/in/film.mkv" in str(failure.value)
    assert "token has expired" in str(failure.value)
    assert "run" in str(failure.value)
    assert not [reason for reason in frames if reason], "a lost connection was taken for damage"
    proxy.fault = lambda method, path, number: "expired" if number >= 2 and method == "GET" else None
    proxy.requests.clear()
    with pytest.raises((StorageError, FilmError), match="token has expired"):
        open_film(FILM)


@pytest.mark.parametrize(("kind", "says"), [("expired", "The provided token has expired"), ("denied", "Access Denied")])
def test_what_the_server_refuses_is_said_at_once(kind: str, says: str, proxy: FaultProxy) -> None:
    says = rf"({says}\.|Forbidden): no permission, or the credentials have expired"  # a HEAD has no body that says more
    proxy.fault = lambda method, path, number: kind
    for act in (
        lambda: Store(f"s3://{BUCKET}/out").write("a/b.json", b"{}"),
        lambda: Store(f"s3://{BUCKET}/out").list(""),
        lambda: open_film(FILM),
        lambda: find_films([f"s3://{BUCKET}/in/"]),
    ):
        before = len(proxy.requests)
        with pytest.raises((StorageError, FilmError), match=says):
            act()
        assert len(proxy.requests) - before <= 4


def test_a_folder_on_s3_behaves_like_one_on_disk(proxy: FaultProxy) -> None:
    dice = random.Random(1)
    proxy.fault = lambda method, path, number: "503" if dice.random() < 0.2 else None
    store = Store(f"s3://{BUCKET}/store/run")
    assert not store.exists("plan.json")
    assert store.list("spans") == []
    for number in range(12):
        store.write(f"spans/film=a/{number:06d}.parquet", bytes([number]) * 1000)
    store.write("spans/film=a/000003.parquet", b"again")
    assert store.list("spans", ".parquet") == [f"spans/film=a/{number:06d}.parquet" for number in range(12)]
    assert store.read("spans/film=a/000003.parquet") == b"again"
    store.remove("spans/film=a")
    assert store.list("spans") == []
    assert not store.exists("spans/film=a/000001.parquet")
    assert proxy.hits["503"] >= 3


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_changes_made_at_the_same_time_are_all_kept(where: str, tmp_path: Path, proxy: FaultProxy) -> None:
    root = str(tmp_path / "run") if where == "disk" else f"s3://{BUCKET}/together"
    proxy.fault = lambda method, path, number: "cut" if method == "PUT" and number % 7 == 0 else None

    def add(name: int) -> None:
        Store(root).update("plan.json", lambda data: json.dumps([*json.loads(data or "[]"), name]).encode())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    found = Store(root).read_json("plan.json")
    # What was written and not answered is written again.
    assert set(found) == set(range(6))
    assert len(found) == 6 or where == "s3"


def test_no_server_at_all_is_said_within_seconds(tmp_path: Path) -> None:
    environment = {
        "FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "FSSPEC_S3_KEY": "a",
        "FSSPEC_S3_SECRET": "verysecret",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "status", f"s3://{BUCKET}/nothing"],
        env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "verysecret" not in done.stderr + done.stdout
