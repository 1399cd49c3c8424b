"""``detpretrain ...``: thin commands. Each imports what it needs when it runs, so that ``--help`` is immediate."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from detpretrain import cli_study
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


task = typer.Typer(no_args_is_help=True, help="Canonical task folders.")
checkpoint = typer.Typer(no_args_is_help=True, help="Checkpoints and models.")
app.add_typer(cli_study.app)
app.add_typer(task, name="task")
app.add_typer(checkpoint, name="checkpoint")


class AbsentClass(StrEnum):
    EXCLUDE = "exclude"
    ZERO = "zero"
    NNDETECTION = "nndetection"


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    SLICER = "slicer"


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the JSON here instead of printing it.")]


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


@app.command()
def compare(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE...", help="Per-detection results: .csv, .parquet or a matches.parquet."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the tables of the comparison.")],
    reference: Annotated[
        str | None, typer.Option(help="The init that others are compared with; default: that of the first table.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Draws of patients.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
) -> None:
    """The study's statistics for any tables of detections: one line per image, object and detection.

    Columns: case, kind (case, truth or detection), z1 y1 x1 z2 y2 x2 in mm, score; and if there is more to say: class, patient,
    fold, ignored, dataset, test_set, detector, init, seed. Without init, a file is one row by its name.
    """
    from detpretrain.comparison import outside_tables
    from detpretrain.comparison.compare import compare_rows
    from detpretrain.comparison.rows import rows_of
    from detpretrain.report import tables as readable

    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file: give a folder")
    read = [(path, outside_tables.read(path)) for path in tables]
    first = reference or str(read[0][1]["init"].iloc[0])
    settings = {"reference": first, "resamples": resamples, "seed": seed, "confidence": confidence}
    compare_rows(rows_of(read), output, settings, {}, {})
    scores, differences = readable.read_comparison(output)
    typer.echo(readable.to_markdown(readable.readable(readable.main_table(scores, differences), confidence)), nl=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL.pth", help="The model.pth of a cell.")],
    cases: Annotated[
        list[str],
        typer.Argument(metavar="CASE...", help="An image file, a DICOM folder, or a,b for the channels of one case."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives one file per case.")],
    form: Annotated[Format, typer.Option("--format", help="slicer = ROI markups (.mrk.json) of 3D Slicer.")] = (
        Format.JSON
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    min_score: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Detections below are left out; 0 keeps all, some 100 a case.")
    ] = 0.0,
    postprocessing: Annotated[
        Path | None, typer.Option(help="postprocessing.json of the model's row; nnDetection's defaults without it.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Use what that file chose for this fold, not for test sets.", min=0)
    ] = None,
) -> None:
    """Detections in images that the study never saw."""
    if fold is not None and postprocessing is None:
        raise InputError("--fold: chooses from a postprocessing.json: give --postprocessing FILE too")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file: give a folder")
    import torch

    from detpretrain.evaluation.ensemble import PostProcessing
    from detpretrain.inference import export, unseen
    from detpretrain.inference import model as models
    from detpretrain.training.runtime import Runtime

    found = unseen.find_cases(cases)
    post = PostProcessing() if postprocessing is None else unseen.read_post_processing(postprocessing, fold)
    where = Runtime(device).prepare(torch.get_num_threads())
    loaded = models.load(model, where)
    for detections in unseen.predict_all(found, loaded, post, where, min_score):
        try:
            path = export.write(detections, output, form.value)
        except OSError as error:
            raise InputError(f"{output}: cannot be written ({error.strerror}): choose another folder") from None
        print(f"{detections.name}: {len(detections.scores)} detections -> {path}", flush=True)


@task.command("validate")
def task_validate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds dataset.json and raw_splitted/.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read volumes.")] = 1,
) -> None:
    """Every problem of a task folder in one table; status 1 when there are any."""
    from detpretrain import task_validation
    from detpretrain.tasks import Task

    problems = task_validation.validate(folder, workers)
    if problems:
        task_validation.print_problems(problems, title=f"{folder}: problems found: {len(problems)}")
        raise typer.Exit(1)
    found = Task.read(folder)
    print(f"no problems: {sum(len(found.cases(test_set)) for test_set in found.test_sets)} cases")


@task.command("nnssl")
def task_nnssl(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A task folder; labels, where it has any, are left out.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="nnssl's listing.")] = Path(
        "pretrain_data.json"
    ),
) -> None:
    """Lists the volumes of a task folder in nnssl's format (pretrain_data.json)."""
    from detpretrain.datasets.nnssl_listing import write_listing
    from detpretrain.tasks import Task

    write_listing(Task.read(folder), output)
    print(output)


@task.command("nnunet")
def task_nnunet(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds DatasetXXX_NAME folders (nnUNet_raw).")],
) -> None:
    """Prints an entry for config/datasets.yaml per nnU-Net data set, for supervised pre-training."""
    import yaml

    from detpretrain.datasets.nnunet_folder import entries

    print(yaml.safe_dump(entries(folder), sort_keys=False), end="")


@checkpoint.command("inspect")
def checkpoint_inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A pre-trained checkpoint.pth or a model.pth.")],
) -> None:
    """What a checkpoint holds: architecture, parameters, stems, patch, spacing, patients, citations, provenance."""
    from detpretrain.training.inspection import inspect

    for name, value in inspect(path).items():
        lines = value if isinstance(value, list) and all(isinstance(entry, str) for entry in value) else [value]
        for number, entry in enumerate(lines or ["none"]):
            print(f"{name if number == 0 else '':<17}{entry if isinstance(entry, str) else json.dumps(entry)}")


@checkpoint.command("export")
def checkpoint_export(
    path: Annotated[Path, typer.Argument(metavar="MODEL.pth", help="A model.pth, or a pre-trained checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")],
    stem: Annotated[
        str | None, typer.Option(help="Of a pre-trained checkpoint with several stems; see inspect.")
    ] = None,
) -> None:
    """The encoder of a model, or a pre-trained network with one of its stems, in the adaptation-plan format."""
    from detpretrain.training.export import export

    print(f"{output}: {export(path, output, stem)}")


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
