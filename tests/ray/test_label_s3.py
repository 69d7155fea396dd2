"""Films and results on S3: a real server on loopback, and a proxy in between that answers badly."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from insideout.store import Store
from tests.fault_proxy import FaultProxy, faulty_s3
from tests.labelling import INSIDEOUT, TABLES, busy, insideout, label, table
from tests.object_storage import BUCKET

pytestmark = pytest.mark.ray

FILM = f"s3://{BUCKET}/films/excerpt.mp4"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, excerpt: Path) -> Iterator[FaultProxy]:
    """A server that holds the excerpt."""
    with faulty_s3(tmp_path_factory.mktemp("weed") / "data") as proxy:
        s3fs.S3FileSystem().put_file(str(excerpt), FILM)
        yield proxy


@pytest.fixture
def proxy(server: FaultProxy) -> Iterator[FaultProxy]:
    server.hits.clear()
    server.requests.clear()
    yield server
    server.fault = lambda method, path, number: None


def same_tables(out: str, usual: Path) -> None:
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name


def test_a_film_on_s3_is_labelled_into_s3_whatever_the_server_answers(
    proxy: FaultProxy, usual: Path, pack: Path, excerpt: Path
) -> None:
    out, kinds = f"s3://{BUCKET}/any", ["503", "500", "cut", "refuse", "slow"]
    # Every fifth request, each kind in its turn; what is tried again comes at another place in the row.
    proxy.fault = lambda method, path, number: kinds[number // 5 % 5] if number % 5 == 0 else None
    done = label(FILM, pack, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"label table: {out}" in done.stdout
    assert min(proxy.hits[kind] for kind in kinds) >= 1, proxy.hits
    proxy.fault = lambda method, path, number: None
    same_tables(out, usual)
    (film,) = Store(out).read_table("films.parquet").to_pylist()
    assert (film["path"], film["bytes"]) == (FILM, excerpt.stat().st_size)
    # By range: nobody fetched the film whole but the one who took its digest.
    assert all(span for method, path, span in proxy.requests if method == "GET" and "excerpt.mp4" in path)

    status = insideout("status", out)
    assert status.returncode == 0, status.stderr
    assert "49" in status.stdout
    report = insideout("report", out)
    assert report.returncode == 0, report.stderr
    assert f"report: {out}/report.html" in report.stdout
    page = Store(out).read("report.html").decode()
    assert "data:image" in page, "the report has no pictures"
    assert Store(out).list("spans") == []


@pytest.mark.chaos
def test_credentials_that_expire_half_way_end_the_run_and_new_ones_go_on(
    proxy: FaultProxy, usual: Path, pack: Path
) -> None:
    out = f"s3://{BUCKET}/expired"
    written: list[str] = []

    def fault(method: str, path: str, number: int) -> str | None:
        if method == "PUT" and "/spans/" in path:
            written.append(path)
        return "expired" if len(written) > 1 else None

    proxy.fault = fault
    done = label(FILM, pack, out)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "The provided token has expired" in done.stderr
    assert "the credentials have expired" in done.stderr
    assert out.removeprefix("s3://") in done.stderr
    proxy.fault = lambda method, path, number: None
    status = insideout("status", out)
    assert status.returncode == 1
    assert "1 of" in status.stdout, status.stdout
    done = label(FILM, pack, out)
    assert done.returncode == 0, done.stderr[-3000:]
    same_tables(out, usual)


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [20])
def test_a_server_that_is_away_for_a_while_is_waited_for(
    seconds: float, proxy: FaultProxy, usual: Path, pack: Path
) -> None:
    out, gone = f"s3://{BUCKET}/away", [0.0]

    def fault(method: str, path: str, number: int) -> str | None:
        if method == "PUT" and "/spans/" in path and not gone[0]:
            gone[0] = time.monotonic()
        return "refuse" if gone[0] and time.monotonic() - gone[0] < seconds else None

    proxy.fault = fault
    done = label(FILM, pack, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert proxy.hits["refuse"] > 3
    same_tables(out, usual)


@pytest.mark.chaos
def test_a_film_that_is_copied_first_gives_the_same_table(
    proxy: FaultProxy, usual: Path, pack: Path, excerpt: Path, tmp_path: Path
) -> None:
    out = f"s3://{BUCKET}/copied"
    options = ("--pack", pack, "--out", out, "--every", "24", "--no-report", "--copy-films")
    done = insideout("label", FILM, *options, TMPDIR=str(tmp_path), RAY_TMPDIR="/tmp")
    assert done.returncode == 0, done.stderr[-3000:]
    same_tables(out, usual)
    (film,) = Store(out).read_table("films.parquet").to_pylist()
    assert film["path"] == FILM
    (copy,) = tmp_path.glob(f"insideout-*/**/{film['film']}")
    assert copy.read_bytes() == excerpt.read_bytes()


@pytest.mark.chaos
def test_a_driver_killed_at_any_request_goes_on(proxy: FaultProxy, usual: Path, pack: Path) -> None:
    out, dice = f"s3://{BUCKET}/killed", random.Random(1)
    command = [*INSIDEOUT, "label", FILM, "--pack", str(pack), "--out", out, "--every", "24", "--no-report"]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = len(proxy.requests) + dice.randrange(12, 60)
        until(lambda wanted=wanted, process=process: len(proxy.requests) >= wanted or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = label(FILM, pack, out)
    assert done.returncode == 0, done.stderr[-3000:]
    same_tables(out, usual)


@pytest.mark.chaos
def test_a_retry_on_s3_does_the_failed_frame_alone(proxy: FaultProxy, usual: Path, pack: Path) -> None:
    out, bad = f"s3://{BUCKET}/poison", busy(usual)
    done = label(FILM, pack, out, f"segment:kill:{bad}")
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(out)
    assert len([key for key in store.list("quarantine") if key.endswith((".json", ".png"))]) == 2
    assert f"`insideout retry {out}` tries them again" in done.stdout
    proxy.requests.clear()
    again = insideout("retry", out, "--pack", pack, "--no-report")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "failed frames to try again: 1" in again.stdout
    assert len({path for method, path, _ in proxy.requests if method == "PUT" and "/spans/" in path}) == 1
    same_tables(out, usual)
    assert store.list("quarantine") == []


@pytest.mark.chaos
def test_two_runs_at_once_into_one_folder_are_harmless(
    proxy: FaultProxy, usual: Path, pack: Path, excerpt: Path, tmp_path: Path
) -> None:
    for out, film in ((f"s3://{BUCKET}/twice", FILM), (str(tmp_path / "twice"), str(excerpt))):
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(label, [film] * 2, [pack] * 2, [out] * 2))
        assert [done.returncode for done in found] == [0, 0], [done.stderr[-2000:] for done in found]
        same_tables(out, usual)
        assert Store(out).exists("_SUCCESS")
        assert Store(out).list("spans") == []


def until(true: Callable[[], bool], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
