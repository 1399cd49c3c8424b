"""``detpretrain ...``: thin commands. Each imports what it needs when it runs, so that ``--help`` is immediate."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from detpretrain.errors import InputError


class Commands(TyperGroup):
    """Ends with one ``error:`` line and status 1 when a command raises ``InputError``."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does pre-training help 3D medical object detection, and which kind?",
)


class AbsentClass(StrEnum):
    EXCLUDE = "exclude"
    ZERO = "zero"
    NNDETECTION = "nndetection"


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the JSON here instead of printing it.")]


@app.callback()
def main() -> None:
    """Keeps the commands named even while there are few."""


@app.command()
def evaluate(
    cases: Annotated[Path, typer.Argument(metavar="CASES.json", help="Truth and detections of every image.")],
    output: Output = None,
    absent_class: Annotated[
        AbsentClass,
        typer.Option(help="A class without objects: left out of the mean, counted 0, or -1 as nnDetection."),
    ] = AbsentClass.EXCLUDE,
) -> None:
    """AP and FROC of any 3D detections."""
    from detpretrain.evaluation import cases as case_files
    from detpretrain.evaluation import metrics

    scored, num_classes = case_files.read(cases)
    _give(metrics.evaluate(scored, num_classes, absent_class.value), output)


@app.command()
def luna16(
    submission: Annotated[
        Path, typer.Argument(metavar="SUBMISSION.csv", help="seriesuid, coordX, coordY, coordZ, probability.")
    ],
    annotations: Annotated[Path, typer.Option(help="annotations.csv of LUNA16.")],
    excluded: Annotated[Path, typer.Option(help="annotations_excluded.csv of LUNA16.")],
    seriesuids: Annotated[Path, typer.Option(help="The scans to score, one series uid a line.")],
    output: Output = None,
) -> None:
    """CPM of a LUNA16 submission by the challenge's rules."""
    from detpretrain.evaluation import luna16 as challenge

    _give(challenge.evaluate(annotations, excluded, seriesuids, submission), output)


def _give(result: dict[str, Any], output: Path | None) -> None:
    """Prints JSON, or writes it whole or not at all."""
    if output is None:
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    from detpretrain import files

    try:
        files.write_json(output, result)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}): choose another path") from None
