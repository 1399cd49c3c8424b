"""``report.html``: one file with everything inside, readable offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from detpretrain.errors import InputError
from detpretrain.report.cell_pages import CellPage
from detpretrain.report.tables import marked

TEMPLATE = Path(__file__).resolve().parents[3] / "workflow" / "report" / "report.html.j2"


@dataclass(frozen=True)
class PageFigure:
    """``alternative``: what the figure shows, for readers who do not see it; ``caption``: how to read it."""

    path: Path
    alternative: str
    caption: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return data_uri(self.path, "image/png")

    @property
    def files(self) -> list[str]:
        """The figure in other forms and its numbers, relative to the page: they lie beside it in a folder of figures."""
        others = [self.path.with_suffix(suffix) for suffix in (".pdf", ".svg", ".csv")]
        return [f"{path.parent.name}/{path.name}" for path in others if path.exists()]


@dataclass(frozen=True)
class Download:
    """A file that the page carries inside."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def source(self) -> str:
        return data_uri(self.path, "text/plain;charset=utf-8")


@dataclass(frozen=True)
class DatasetSection:
    """``holds``: e.g. "60 patients, 60 cases, 82 objects"; ``cells``: pages, in the order of ``table``, which links them."""

    name: str
    holds: str
    figures: Sequence[PageFigure]
    cells: Sequence[CellPage]
    cell_table: pd.DataFrame

    @property
    def anchor(self) -> str:
        return f"dataset-{self.name}"

    @property
    def table(self) -> PageTable:
        return PageTable(f"Cells of {self.name}", "", self.cell_table)


@dataclass(frozen=True)
class PageTable:
    """A table of texts; ``note``: how to read it."""

    name: str
    note: str
    table: pd.DataFrame

    @property
    def columns(self) -> list[str]:
        return list(self.table.columns)

    @property
    def lines(self) -> list[list[str]]:
        return self.table.to_numpy().tolist()


@dataclass(frozen=True)
class PretrainingSection:
    """Tables and figures on the study's own pre-trainings."""

    tables: Sequence[PageTable]
    figures: Sequence[PageFigure]


def data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def finding(line: Mapping[str, Any], confidence: float) -> str | None:
    """One line of the main table -> a sentence on its difference to the reference; None where there is none.

    Where the pre-training saw scored patients, the sentence says that it is no evidence.
    """
    where = f"{line['dataset']} ({line['test_set']}), {line['detector']}, seed {line['seed']}"
    init, overlap = marked(line["init"], line["overlap"]), line["overlap"]
    if pd.isna(line["difference"]):
        return None
    low, high = line["difference_low"], line["difference_high"]
    if pd.isna(low):
        return f"{where}: {init} cannot be judged, there are too few patients for an interval."
    if low > 0:
        judgement = "better than"
    elif high < 0:
        judgement = "worse than"
    else:
        judgement = "not shown to differ from"
    numbers = f"{line['difference']:+.3f} AP@0.10, {100 * confidence:g} % CI {low:+.3f} to {high:+.3f}".replace(
        "-", "−"
    )
    warning = f"; pre-trained on {overlap} of the scored patients: no evidence about pre-training" if overlap else ""
    return f"{where}: {init} is {judgement} {line['reference']} ({numbers}){warning}."


def write_page(template: Path, values: Mapping[str, Any]) -> str:
    """Renders the page from the template and what it includes, all of its folder.

    Raises:
        InputError: the template is missing or names something that ``values`` lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(template.name).render(values)
    except jinja2.TemplateNotFound as error:
        raise InputError(
            f"{template.parent / str(error.name)}: file not found: run from a checkout or give a template"
        ) from None
    except jinja2.TemplateError as error:
        raise InputError(f"{template}: {error}: correct the template") from None
