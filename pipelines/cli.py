"""The command line: the same verbs as the library, one screen of help each."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from insideout.errors import InsideoutError
from insideout.messages import shown
from pipelines.cli_analyse import analyse
from pipelines.cli_answer import ask, diff, render
from pipelines.cli_data import data_app
from pipelines.cli_label import label, plan, report, retry, status
from pipelines.cli_pack import pack_app
from pipelines.cli_train import train_app
from pipelines.cli_view import view
from pipelines.evaluate import evaluate
from pipelines.split import split

app = typer.Typer(
    help="Who feels what, in every shot of an animated film.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for panel, commands in {
    "Label films": (plan, label, status, retry),
    "Look and ask": (view, analyse, report, ask, render, diff),
    "Measure": (split, evaluate),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
for name, group in {"train": train_app, "pack": pack_app, "data": data_app}.items():
    app.add_typer(group, name=name, rich_help_panel="Models and data")
for found in entry_points(group="insideout.commands"):
    app.add_typer(found.load(), name=found.name, rich_help_panel="Models and data")


def main(commands: typer.Typer = app) -> None:
    """Entry point: an error of ours is one message and an exit code, never a traceback."""
    try:
        commands()
    except InsideoutError as error:
        _fail(error)
    except _ray_errors() as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = shown(lines[-1] if lines else repr(error))
        print(f"insideout: Ray gave up: {said}; run the same command again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("insideout: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _ray_errors() -> tuple[type[Exception], ...]:
    """Ray's errors, if this process has come to use Ray at all."""
    exceptions = sys.modules.get("ray.exceptions")
    return (exceptions.RayError,) if exceptions else ()


def _fail(error: InsideoutError) -> None:
    # Ray hands an error of a worker over as a subclass whose text is the worker's traceback.
    cause = getattr(error, "cause", None)
    known = cause if isinstance(cause, InsideoutError) else error
    print(f"insideout: {known}", file=sys.stderr)
    sys.exit(known.exit_code)


def label_main() -> None:
    """`python -m pipelines.label`: the label command on its own."""
    sys.argv[1:1] = ["label"]
    main()


def train_main(model: str) -> None:
    """`python -m pipelines.train_emotion` and `…train_segmenter`: each command on its own."""
    sys.argv[1:1] = ["train", model]
    main()


if __name__ == "__main__":
    main()
