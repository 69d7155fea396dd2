"""The viewer of a run and a film on S3: a real server on loopback, asked by range."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from insideout import objects
from insideout.store import Store
from tests.fault_proxy import faulty_s3
from tests.media import numbered, write_film
from tests.object_storage import BUCKET
from tests.viewers import label_film, opened


def test_a_run_and_its_film_on_s3_are_viewed_and_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "film.mp4", 96, numbered(256, 144), options={"g": "12", "crf": "10"})
    label_film(tmp_path / "run", path)
    data = path.read_bytes()
    monkeypatch.setattr(objects, "BLOCK_BYTES", 8 * 1024)
    with faulty_s3(tmp_path / "weed" / "data") as proxy:
        films = pq.read_table(tmp_path / "run" / "films.parquet")
        url = f"s3://{BUCKET}/in/film.mp4"
        films = films.set_column(films.column_names.index("path"), "path", [[url]])
        pq.write_table(
            films.cast(pq.read_schema(tmp_path / "run" / "films.parquet")), tmp_path / "run" / "films.parquet"
        )
        s3fs.S3FileSystem().put_file(str(path), url)
        run = Store(f"s3://{BUCKET}/run")
        for file in (tmp_path / "run").rglob("*"):
            if file.is_file():
                run.write(file.relative_to(tmp_path / "run").as_posix(), file.read_bytes())
        with opened(run.root) as client:
            film = client.get("/api/run").json()["films"][0]["film"]
            before = len(proxy.requests)
            part = client.get(f"/films/{film}/video", headers={"Range": "bytes=20000-20099"})
            assert (part.status_code, part.content) == (206, data[20000:20100])
            asked = [where for method, key, where in proxy.requests[before:] if method == "GET" and "film.mp4" in key]
            assert asked == ["bytes=20000-28291"], "what was asked for and a block, not the film"
            assert client.get(f"/films/{film}/frames/30.jpg").status_code == 200
            said = {"target": {"ordinal": 28, "track": 2}, "emotion": "Angry"}
            assert client.post(f"/api/films/{film}/annotations", json=said).status_code == 200
        assert b",Angry," in run.read("annotations.csv")
