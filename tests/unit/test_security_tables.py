"""What a table from a stranger may try: Ray's kind of column, in which a value is code."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insideout.datasets.crop_table import read_crop_table
from insideout.errors import DataError, OutputError
from insideout.report import write_report
from insideout.schema import check_plain
from insideout.store import Store
from tests import runs

EVIL_TABLE = """
    import sys
    from pathlib import Path
    import pyarrow as pa, pyarrow.parquet as pq
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray
    class Payload:
        def __reduce__(self):
            return Path.touch, (Path(sys.argv[2]),)
    table = pa.table({"emotion": ArrowPythonObjectArray.from_objects([Payload()]), "split": ["train"], "track": [1]})
    pq.write_table(table, sys.argv[1] + "/evil.parquet")
    table.to_pylist()
    assert Path(sys.argv[2]).exists()
    Path(sys.argv[2]).unlink()
    from insideout.datasets.crop_table import read_crop_table
    from insideout.errors import InsideoutError
    from insideout.evaluation.predictions import Predictions
    from insideout.parts import read_part
    from insideout.store import Store
    evil = Path(sys.argv[1]) / "evil.parquet"
    for attempt in (
        lambda: read_crop_table(sys.argv[1] + "/run", evil),
        lambda: Predictions.read(evil),
        lambda: Store(sys.argv[1]).read_table("evil.parquet"),
        lambda: read_part(evil.read_bytes(), "a span"),
    ):
        try:
            attempt()
        except InsideoutError as error:
            print(error)
"""


def test_code_in_a_column_never_runs(tmp_path: Path) -> None:
    """With Ray Data imported, as in labelling and training, Arrow reads columns of Ray's kind by unpickling them."""
    runs.write_run(tmp_path / "run", runs.FILMS[1:])
    mark = tmp_path / "code-ran"
    command = [sys.executable, "-c", textwrap.dedent(EVIL_TABLE), str(tmp_path), str(mark)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.count("has columns of the kind ray.data.arrow_pickled_object, which are never read") == 4, done
    assert not mark.exists()


class Nested(pa.ExtensionType):
    """A kind of column as any library can bring one."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "test.nested")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Nested:
        return cls()


@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, pa.list_, lambda t: pa.struct([("a", pa.int8()), ("b", pa.list_(t))]),
     lambda t: pa.map_(pa.string(), t), lambda t: pa.dictionary(pa.int8(), t)],
)  # fmt: skip
def test_a_foreign_kind_is_found_however_deep_it_lies(wrap: Callable[[pa.DataType], pa.DataType]) -> None:
    with pytest.raises(OutputError, match=r"a table: has columns of the kind test\.nested"):
        check_plain(pa.schema([("plain", pa.string()), ("odd", wrap(Nested()))]), "a table")


def test_the_tables_of_a_run_are_checked_before_a_value_is_looked_at(tmp_path: Path) -> None:
    pa.register_extension_type(Nested())
    try:
        for key in ("films.parquet", f"frames/film={runs.FILMS[1].film}/part-0.parquet",
                    f"characters/film={runs.FILMS[1].film}/part-0.parquet"):  # fmt: skip
            folder = runs.write_run(tmp_path / key.partition("/")[0], runs.FILMS[1:])
            table = pq.ParquetFile(folder / key).read()
            odd = pa.ExtensionArray.from_storage(Nested(), pa.array(["x"] * len(table)))
            pq.write_table(table.append_column("odd", odd), folder / key)
            with pytest.raises(OutputError, match=r"has columns of the kind test\.nested"):
                write_report(folder)
            if key != "films.parquet":
                continue
            with pytest.raises(OutputError, match=r"films\.parquet: has columns of the kind"):
                Store(folder).read_table(key)
    finally:
        pa.unregister_extension_type("test.nested")


def test_labels_that_are_plain_are_read(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run", runs.FILMS[1:])
    labels = pa.table({"emotion": ["Joy"], "split": ["train"], "track": [99999]})
    pq.write_table(labels, tmp_path / "labels.parquet")
    with pytest.raises(DataError, match="match no character"):
        read_crop_table(tmp_path / "run", tmp_path / "labels.parquet")
