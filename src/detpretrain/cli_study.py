"""The commands on a study: ``status``, ``watch``, ``rerun``, ``import``, ``unlock``, ``clean``, ``report`` and ``doctor``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from detpretrain.errors import InputError

DEMO = Path("config/demo.yaml")
Config = Annotated[list[Path], typer.Option(help="Study file; again for one that overrides it.", show_default=True)]
Only = Annotated[str | None, typer.Option(help="A part of the study, as in snakemake --config only=...")]

app = typer.Typer()


class BeforeDashes(TyperCommand):
    """What comes after ``--`` is for another program: it lies in ``ctx.meta["after"]``, whatever this command takes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        ctx.meta["after"] = args[place + 1 :]
        return super().parse_args(ctx, args[:place])


@app.command()
def status(
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document of all cells and pre-trainings.")] = False,
) -> None:
    """Which cells of a study are fresh, made by other source or recipe, running, failed or missing; run it in the repository."""
    from rich.console import Console

    from detpretrain import status_table, study

    chosen = study.load(config, Path.cwd())
    if as_json:
        print(json.dumps(status_table.document(chosen), indent=1, allow_nan=False))
    else:
        status_table.print_status(chosen, Console())


@app.command()
def watch(
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
) -> None:
    """The trainings that run now, with position, loss and time left, until Ctrl-C; run it in the repository."""
    from rich.console import Console

    from detpretrain import study
    from detpretrain import watch as watching

    watching.watch(study.load(config, Path.cwd()), Console(), interval, once)


@app.command(cls=BeforeDashes)
def rerun(
    ctx: typer.Context,
    part: Annotated[
        str | None, typer.Argument(metavar="[FILTER]", help="A part of the study, as in snakemake --config only=...")
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Cells that came from other source.")] = False,
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show Snakemake's plan and run nothing.")] = False,
) -> None:
    """Makes again what came from other source, and nothing that is fresh; run it in the repository.

    What follows -- goes to Snakemake: detpretrain rerun --stale rows=mae -- -c2. Tables and report are left to a plain run of
    Snakemake afterwards.
    """
    from detpretrain import rerun as again
    from detpretrain import selector

    if not stale:
        raise InputError("rerun: nothing is named: give --stale, or --stale rows=mae for a part of the study")
    found, waiting = again.orders(selector.load(config, Path.cwd(), part))
    for name in waiting:
        print(f"{name}: left out, it is being trained")
    for order in found:
        print(f"{order.cell}: from {order.stage} on")
    if not found:
        print("no cell came from other source: nothing to run")
        return
    command = again.command(found, config, dry_run, ctx.meta["after"])
    sys.stdout.flush()
    # in place of this process, so that Ctrl-C, signals and the exit status are Snakemake's
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise InputError(f"snakemake cannot be started ({error.strerror}): name fewer cells, --stale FILTER") from None


@app.command("import")
def import_cells(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The other group's results/STUDY, or a copy of it.", show_default=False),
    ],
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    only: Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check everything and copy nothing.")] = False,
) -> None:
    """Brings in cells that another group computed, checked and marked; status 1 when one is refused; run it in the repository.

    A cell that is here, or is being trained, is never touched. Data sets must be preprocessed here.
    """
    from detpretrain import selector
    from detpretrain.importing import plan as planning
    from detpretrain.importing.run import carry_out, told

    root = Path.cwd()
    chosen = selector.load(config, root, only)
    plan = planning.make(chosen, folder, config, lambda name: print(f"checking {name}", file=sys.stderr, flush=True))
    names = [f"pre-training {item.training.name}" for item in plan.pretrainings]
    names += [item.training.name for item in plan.cells]
    count = 0
    for name in names if dry_run else carry_out(plan, config, root):
        count += 1
        print(f"{name}: {'would be imported' if dry_run else 'imported'}", flush=True)
    for name, reason in plan.refused:
        print(f"{name}: refused: {reason}")
    for line in told(plan, root):
        print(line)
    absent = f", {plan.absent} cells are not there" if plan.absent else ""
    print(f"{'to import' if dry_run else 'imported'}: {count}, refused: {len(plan.refused)}{absent}")
    if plan.refused:
        raise typer.Exit(1)


@app.command()
def unlock(
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    yes: Annotated[
        bool, typer.Option("--yes", help="End them and remove the lock; without it they are only listed.")
    ] = False,
    wait: Annotated[float, typer.Option(min=1.0, help="Seconds that they have to save and end.")] = 300.0,
) -> None:
    """What a killed Snakemake left: Slurm jobs and trainings that live on, and its lock; run it in the repository."""
    from rich.console import Console

    from detpretrain import study
    from detpretrain import unlock as unlocking

    root = Path.cwd()
    chosen = study.load(config, root)
    found = unlocking.find(chosen, root)
    unlocking.print_found(found, chosen, Console())
    if not yes:
        print("--yes ends what is in the table and removes Snakemake's lock")
        return
    sys.stdout.flush()
    unlocking.end(found, root, wait)
    unlocking.remove_lock(config, root)
    print(f"ended {len(found.jobs)} jobs and {len(found.trainers)} trainings, unlocked the directory")


@app.command()
def clean(
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """Work files of finished cells and pre-trainings: what they take, and their removal; run it in the repository."""
    from detpretrain import clean as cleaning
    from detpretrain import study

    found = cleaning.leftovers(study.load(config, Path.cwd()))
    freed, folders = 0, 0
    for each in cleaning.remove(found) if yes else found:
        print(f"{each.training.work}: {each.files} files, {cleaning.readable(each.size)}")
        freed, folders = freed + each.size, folders + 1
    if yes:
        print(f"freed {cleaning.readable(freed)} in {folders} folders")
    else:
        print(f"{cleaning.readable(freed)} in {folders} folders: --yes removes them")


@app.command()
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives comparison/ and report/.")],
    config: Config = [DEMO],  # noqa: B006 (typer copies it)
    only: Only = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unless every cell is there and fresh.")] = False,
) -> None:
    """Tables, figures and report.html of the rows that are finished so far; run it in the repository.

    The workflow makes its report when every cell is there. This one says what is missing, and touches none of its files.
    """
    from detpretrain import selector
    from detpretrain.study_report import report_so_far, require_fresh

    root = Path.cwd()
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file: give a folder")
    chosen = selector.load(config, root, only)
    if strict:
        require_fresh(chosen)
    missing = report_so_far(chosen, root, output)
    for name in missing:
        print(f"missing: {name}")
    print(output / "report" / "report.html")


@app.command()
def doctor(
    configfile: Annotated[
        list[Path],
        typer.Option(
            "--configfile", "--config", help="Study file; again for one that overrides it.", show_default=True
        ),
    ] = [DEMO],  # noqa: B006 (typer copies it)
    only: Only = None,
    profile: Annotated[Path | None, typer.Option(help="The profile folder that Snakemake will be given.")] = None,
    online: Annotated[bool, typer.Option("--online", help="Ask the Hub for the checkpoints to be fetched.")] = False,
) -> None:
    """What a study needs and what of it is there: software, machine, data, room, hours; status 1 when something blocks it."""
    from rich.console import Console

    from detpretrain import selector
    from detpretrain.doctor.examination import examine, print_topics

    root = Path.cwd()
    chosen = selector.load(configfile, root, only)
    topics = examine(chosen, root, profile=profile, online=online)
    print_topics(chosen, topics, Console())
    if any(topic.blocked for topic in topics):
        raise typer.Exit(1)
