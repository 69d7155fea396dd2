"""Corrections of labels, as a table that `train`, `evaluate` and `analyse` read.

    annotations.csv: film, shot, ordinal, track, character, emotion, as_character, split, annotator, at

A row is about one character in one labelled frame, and what it does not say stands as it was labelled:
`emotion` is the true one, `as_character` the true name, `-` where there is no character at all.
`character` and `shot` are the run's own. A correction of a whole track has a row for each of its frames,
so that no reader needs to know which of two rows is about more. All rows of a shot have one `split`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from insideout.datasets.crop_table import NOT_A_CHARACTER
from insideout.errors import DataError
from insideout.messages import shown as printable
from insideout.objects import is_url
from insideout.store import Store

COLUMNS = ("film", "shot", "ordinal", "track", "character", "emotion", "as_character", "split", "annotator", "at")
SPLITS = ("train", "valid", "test")
FILE = "annotations.csv"

Key = tuple[str, int, int]  # film, ordinal, track


class Changed(DataError):
    """What is to be undone has been changed again since, by another tab or another person."""


@dataclass(frozen=True)
class Annotation:
    """What is said of one character in one labelled frame; empty where nothing is said.

    `at` is when, in UTC, to the microsecond.
    """

    film: str
    shot: int
    ordinal: int
    track: int
    character: str
    emotion: str = ""
    as_character: str = ""
    split: str = SPLITS[0]
    annotator: str = ""
    at: str = ""

    @property
    def key(self) -> Key:
        return (self.film, self.ordinal, self.track)

    @property
    def says_anything(self) -> bool:
        """Whether the label is corrected at all."""
        return bool(self.emotion or self.as_character)


class Annotations:
    """The annotation file of a run. It is read again for each change, so that nothing of another tab is lost."""

    def __init__(self, folder: Store, name: str) -> None:
        """`name` is the file's name in its folder; it need not exist yet. Raises DataError if it cannot be used."""
        self._folder, self._name = folder, name
        self.rows()

    @property
    def where(self) -> str:
        """Path of the file."""
        return self._folder.path(self._name)

    def rows(self, film: str | None = None) -> list[Annotation]:
        """All rows, or those of a film, in order of film, ordinal and track."""
        data = self._folder.read(self._name) if self._folder.exists(self._name) else None
        return [row for _, row in sorted(_parse(data, self.where).items()) if film in (None, row.film)]

    def correct(
        self,
        targets: Sequence[Annotation],
        *,
        emotion: str | None = None,
        as_character: str | None = None,
        split: str | None = None,
        annotator: str = "",
    ) -> tuple[list[Annotation | None], list[Annotation]]:
        """Say the same of all `targets`, of which film, shot, ordinal, track and character are taken.

        None for what is not to change; an empty text takes it back. Who is no character has no emotion, and
        who has an emotion is one. `split` goes to all rows of the targets' shots; without it a shot keeps its
        own. Returns what was said of each target before (None: nothing) and what is said now.
        """
        before: list[Annotation | None] = []
        after: list[Annotation] = []

        def change(rows: dict[Key, Annotation]) -> None:
            before.clear()
            after.clear()
            splits = {(row.film, row.shot): row.split for row in rows.values()}
            now = _now()
            for target in targets:
                old = rows.get(target.key)
                new = replace(
                    old or target,
                    split=split or splits.get((target.film, target.shot), target.split),
                    annotator=annotator,
                    at=now,
                )
                if as_character is not None:
                    same = as_character == target.character
                    new = replace(new, as_character="" if same else as_character)
                    if as_character == NOT_A_CHARACTER:
                        new = replace(new, emotion="")
                if emotion is not None:
                    new = replace(new, emotion=emotion)
                    if emotion and new.as_character == NOT_A_CHARACTER:
                        new = replace(new, as_character="")
                before.append(old)
                after.append(new)
                rows[new.key] = new
            if split:
                _assign(rows, {(target.film, target.shot) for target in targets}, split)

        self._change(change)
        return before, after

    def assign(self, film: str, shot: int, split: str) -> None:
        """Put all rows of a shot into a split."""
        self._change(lambda rows: _assign(rows, {(film, shot)}, split))

    def restore(self, pairs: Iterable[tuple[Annotation | None, Annotation]]) -> None:
        """Take corrections back: pairs of what was before and what was said, as `correct` returned them.

        Splits of shots stay. Raises Changed, and changes nothing, where something else has been said since.
        """
        listed = list(pairs)

        def change(rows: dict[Key, Annotation]) -> None:
            for _, said in listed:
                found = rows.get(said.key)
                if (found.at if found else "") != (said.at if said.says_anything else ""):
                    raise Changed(
                        f"frame {said.ordinal}, {said.character}: has been corrected again since, perhaps in another"
                        " tab; load the page again and correct it there"
                    )
            for old, said in listed:
                if old is None:
                    rows.pop(said.key, None)
                else:
                    rows[said.key] = replace(old, split=rows[said.key].split if said.key in rows else old.split)

        self._change(change)

    def _change(self, change: Callable[[dict[Key, Annotation]], None]) -> None:
        def update(data: bytes | None) -> bytes:
            rows = _parse(data, self.where)
            change(rows)
            return _format(row for _, row in sorted(rows.items()) if row.says_anything)

        self._folder.update(self._name, update)


def open_annotations(run: Store, path: str | None) -> Annotations:
    """The annotations of a run in RUN/annotations.csv, or in another file or fsspec URL.

    Raises DataError where that is something else than annotations of the viewer.
    """
    if path is None:
        return Annotations(run, FILE)
    if not path.lower().endswith(".csv"):
        raise DataError(f"{path}: annotations are kept as CSV; give a name that ends with .csv")
    folder, _, name = path.rpartition("/")
    if not is_url(path) and not folder:
        folder = "/" if path.startswith("/") else "."
    return Annotations(Store(folder), name)


def _assign(rows: dict[Key, Annotation], shots: set[tuple[str, int]], split: str) -> None:
    for key, row in rows.items():
        if (row.film, row.shot) in shots:
            rows[key] = replace(row, split=split)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parse(data: bytes | None, where: str) -> dict[Key, Annotation]:
    if not data:
        return {}
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        if set(reader.fieldnames or ()) != set(COLUMNS):
            raise DataError(
                f"{where}: has other columns than annotations of the viewer ({', '.join(COLUMNS)}); "
                "give another file by --annotations"
            )
        found = {}
        for line, row in enumerate(reader, 2):
            annotation = _annotation(row, where, line)
            found[annotation.key] = annotation
        return found
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: not readable as CSV ({error}); repair it, or give another --annotations") from error


def _annotation(row: Mapping[str, str | None], where: str, line: int) -> Annotation:
    try:
        numbers = {name: int(row[name] or "") for name in ("shot", "ordinal", "track")}
    except ValueError as error:
        raise DataError(f"{where}: line {line}: shot, ordinal and track must be whole numbers; correct it") from error
    texts = {name: row[name] or "" for name in COLUMNS if name not in numbers}
    if texts["split"] not in SPLITS:
        raise DataError(
            f"{where}: line {line}: split is '{printable(texts['split'])}'; choose from {', '.join(SPLITS)}"
        )
    return Annotation(**texts, **numbers)  # type: ignore[arg-type]


def _format(rows: Iterable[Annotation]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().encode()
