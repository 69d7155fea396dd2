"""The command `insideout view`: a film with its labels on top, in the browser, and corrections of them."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer


def view(
    run: Annotated[str, typer.Argument(metavar="DIR", help="The output folder of `insideout label`.")],
    film: Annotated[
        list[str] | None, typer.Option("--film", help="Where a film of DIR lies now, if it has moved; repeatable.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="CSV that corrections are kept in; DIR/annotations.csv by default.")
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Name that is written beside corrections; your login by default.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; a free one by default.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Play a film with its labels on top, in the browser on this machine, and correct them with one key."""
    from insideout.view.serve import serve

    def ready(address: str, notes: list[str]) -> None:
        for note in notes:
            typer.echo(f"note: {note}")
        typer.echo(f"viewer: {address}")
        typer.echo("only this machine can open it, and only with this address; Ctrl+C ends it")
        if open_browser:
            typer.launch(address)

    serve(run, films=film or [], annotations=annotations, annotator=annotator or _login(), port=port, on_ready=ready)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user, as in some containers
        return ""
