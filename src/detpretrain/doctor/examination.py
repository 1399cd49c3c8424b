"""All topics of the doctor for one study, and how they are printed."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from detpretrain.doctor import hours, machine, software, sources, space
from detpretrain.doctor.finding import BLOCKS, OK, WARNING, Topic
from detpretrain.study import Study

STYLE = {OK: "", WARNING: "yellow", BLOCKS: "bold red"}
SPACE_COLUMNS = ("stage", "GB there", "GB needed", "files needed", "note")
HOURS_COLUMNS = ("training", "planned", "done", "steps each", "steps/s", "GPU-hours left", "speed from")


def examine(study: Study, root: Path, *, profile: Path | None = None, online: bool = False) -> list[Topic]:
    """``root``: the repository. Raises InputError for a profile that does not exist."""
    executor = software.executor(profile)
    needs = space.needs(study)
    work = hours.work(study)
    programs = [*software.packages(root), *software.snakemake(profile), *software.engines(study, executor)]
    return [
        Topic("software", [software.python(root), *programs]),
        Topic("machine", machine.findings(machine.inspect(), study.config["runtime"], executor)),
        Topic("data sets", sources.datasets(study)),
        Topic("checkpoints", sources.checkpoints(study, online)),
        Topic("room", space.findings(study, needs), SPACE_COLUMNS, space.table(needs)),
        Topic("time", (), HOURS_COLUMNS, hours.table(work)),
    ]


def print_topics(study: Study, topics: list[Topic], console: Console) -> None:
    """One table per topic, what it is made of below it, and a last line that says whether the study can run."""
    console.print(f"study {study.name}: {len(study.cells)} cells in {len(study.rows)} rows", highlight=False)
    for topic in topics:
        if topic.findings:
            console.print(_findings(topic))
        if topic.lines:
            console.print(_lines(topic, title=None if topic.findings else topic.title))
    blocking = sum(finding.state == BLOCKS for topic in topics for finding in topic.findings)
    verdict = f"things that block the study: {blocking}" if blocking else "nothing blocks the study"
    console.print(verdict, highlight=False)


def _findings(topic: Topic) -> Table:
    table = Table(title=topic.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for finding in topic.findings:
        cells = (finding.state, finding.name, finding.found, finding.remedy)
        table.add_row(*(cell.replace("[", r"\[") for cell in cells), style=STYLE[finding.state])
    return table


def _lines(topic: Topic, title: str | None) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(topic.columns):
        last = number == len(topic.columns) - 1
        table.add_column(name, justify="left" if number == 0 or last else "right", overflow="fold")
    for line in topic.lines:
        table.add_row(*(cell.replace("[", r"\[") for cell in line))
    return table
