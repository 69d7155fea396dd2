"""Who may talk to the viewer: the page that was opened with the printed address, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from insideout.view.serve import open_viewer
from tests.media import write_film
from tests.viewers import TOKEN, label_film

HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    label_film(folder / "run", write_film(folder / "f.mp4", 24))
    return folder / "run"


@pytest.fixture
def stranger(run: Path, tmp_path: Path) -> TestClient:
    app, _ = open_viewer(str(run), films=[], annotations=str(tmp_path / "a.csv"), annotator="", token=TOKEN)
    return TestClient(app, base_url=HERE, follow_redirects=False)


def _page_token(client: TestClient) -> str:
    return client.get("/").text.partition('name="token" content="')[2].partition('"')[0]


def test_without_the_token_of_the_address_nothing_is_told(stranger: TestClient) -> None:
    film = "x" * 16
    for path in ("/", "/?token=guess", "/static/main.js", "/api/run", f"/films/{film}/video", "/favicon.ico"):
        answer = stranger.get(path)
        assert answer.status_code == 403, path
        assert "token included" in answer.text


def test_the_token_leaves_the_address_and_stays_in_a_cookie_that_scripts_and_others_do_not_get(
    stranger: TestClient,
) -> None:
    answer = stranger.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in stranger.get("/").text
    name = cookie.partition("=")[0]
    stranger.cookies.clear()
    assert stranger.get("/", headers={"Cookie": f"{name}=guess"}).status_code == 403
    assert stranger.get("/", headers={"Cookie": f"{name}={TOKEN}"}).status_code == 200


def test_two_viewers_on_one_machine_do_not_shut_each_other_out(run: Path, stranger: TestClient) -> None:
    other, _ = open_viewer(str(run), films=[], annotations=None, annotator="", token="another")
    stranger.get(f"/?token={TOKEN}")
    with TestClient(other, base_url="http://127.0.0.1:9000", follow_redirects=False) as second:
        second.get("/?token=another")
        # The browser sends the cookies of both to both.
        both = {"Cookie": "; ".join(f"{name}={value}" for c in (stranger, second) for name, value in c.cookies.items())}
    for client in (stranger, second):
        client.cookies.clear()
        assert client.get("/", headers=both).status_code == 200


def test_the_cookie_alone_neither_reads_nor_writes_labels(stranger: TestClient) -> None:
    stranger.get(f"/?token={TOKEN}")
    assert stranger.get("/api/run").status_code == 403
    assert stranger.post("/api/films/x/annotations", json={}).status_code == 403
    assert stranger.get("/api/run", headers={"x-insideout-token": TOKEN}).status_code == 403
    assert stranger.get("/api/run", headers={"x-insideout-token": _page_token(stranger)}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "", "[::2]:1"]
)
def test_a_foreign_name_that_points_here_is_refused(stranger: TestClient, host: str) -> None:
    assert stranger.get(f"/?token={TOKEN}", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST:1"])
def test_names_of_this_machine_are_fine(stranger: TestClient, host: str) -> None:
    assert stranger.get(f"/?token={TOKEN}", headers={"Host": host}).status_code == 303


def test_calls_from_other_pages_are_refused_whatever_they_know(stranger: TestClient) -> None:
    stranger.get(f"/?token={TOKEN}")
    known = {"x-insideout-token": _page_token(stranger)}
    for headers in (
        {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ):  # fmt: skip
        assert stranger.get("/api/run", headers=known | headers).status_code == 403, headers
        assert stranger.get("/films/x/video", headers=headers).status_code == 403, headers
    assert (
        stranger.get("/api/run", headers=known | {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    )


def test_every_answer_lets_nothing_load_and_nothing_be_framed(stranger: TestClient) -> None:
    for path in ("/", f"/?token={TOKEN}", "/static/main.js", "/nowhere"):
        headers = stranger.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers


def test_the_page_and_its_scripts_have_no_markup_from_data_and_no_inline_code(run: Path) -> None:
    static = Path(__file__).parents[2] / "insideout" / "view" / "static"
    for path in static.iterdir():
        text = path.read_text()
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
        ):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        if path.suffix == ".html":
            assert " style=" not in text
            assert "<style" not in text
            assert "onclick" not in text


def test_the_command_listens_on_loopback_only(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "view", str(run), "--no-open", "--annotations"]
    with subprocess.Popen([*command, str(tmp_path / "a.csv")], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("viewer: ").strip()
            assert address.startswith("http://127.0.0.1:")
            assert httpx.get(address.replace("/?", "/nowhere?"), timeout=20).status_code == 403
            port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
            listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
            bound = [line.split()[1] for line in listening.splitlines() if line.split()[3] == "0A"]
            assert [local for local in bound if local.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
