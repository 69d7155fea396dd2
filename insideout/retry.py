"""Forget what failed in a run, so that it is done again, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass

from insideout.assemble import frames_key, read_summaries
from insideout.errors import OutputError, UsageError
from insideout.packs import Pack
from insideout.parts import read_part
from insideout.plan import PLAN_KEY, LabelSettings, spans_folder
from insideout.store import Store


@dataclass(frozen=True)
class Retry:
    """What a run is to be done again with: all its films, whose finished spans are taken as they are."""

    films: tuple[str, ...]
    settings: LabelSettings
    failed: int
    """Frames that had failed and are tried again."""


def forget_failures(store: Store, pack: Pack) -> Retry:
    """Remove the spans that hold a failed frame, the ledgers of their films and their quarantine.

    What is missing in a run that has not ended is not touched: it is done as `insideout label` would.
    Raises OutputError where there is no run, UsageError for another pack than the run's.
    """
    if not store.exists(PLAN_KEY):
        raise OutputError(f"{store.root}: no plan.json, so not an output of `insideout label`")
    plan = store.read_json(PLAN_KEY)
    if plan["pack"]["digest"] != pack.digest:
        raise UsageError(
            f"{store.root}: was labelled with another pack ({plan['pack']['name']}, digest"
            f" {plan['pack']['digest'][:12]}…); give that one as --pack"
        )
    failed = 0
    summaries = read_summaries(store, list(plan["films"]))
    for film in plan["films"]:
        folder = spans_folder(film, plan["fingerprint"])
        if film in summaries and not summaries[film].failed:
            continue
        spoilt = []
        for key in store.list(folder, ".parquet"):
            count = sum(frame["status"] == "failed" for frame in read_part(store.read(key), key).frames)
            failed += count
            if count:
                spoilt.append(key)
        if spoilt:
            # The ledger first: without it the film counts as unfinished, whatever happens from here on.
            store.remove("_SUCCESS")
            store.remove(frames_key(film))
            store.remove(f"quarantine/film={film}")
            for key in spoilt:
                store.remove(key)
    return Retry(tuple(facts["path"] for facts in plan["films"].values()), LabelSettings(**plan["settings"]), failed)


def clear_spans(store: Store, films: dict[str, bool]) -> None:
    """Remove the spans of films that were assembled; those with a failed frame (True) are kept for a retry."""
    left = {key.split("/")[1].removeprefix("film=") for key in store.list("spans")}
    for film in left:
        if films.get(film) is False:
            store.remove(f"spans/film={film}")
    if all(films.get(film) is False for film in left):
        store.remove("spans")  # on local disk the empty folder
