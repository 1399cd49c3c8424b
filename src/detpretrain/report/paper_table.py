"""The table as papers print it: a line per detector and initialisation, a column per data set, the best ones marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import markupsafe
import pandas as pd

from detpretrain.comparison.ranking import ranks
from detpretrain.report.tables import HEADLINE, NOT_DEFINED, latex_escape, marked

LEVEL = 0.05
BETTER, WORSE = "▲", "▼"
MEAN, MEAN_RANK = "mean", "mean rank"


@dataclass(frozen=True)
class Markup:
    """How a format writes the best value, the second one, a mark and any other text."""

    best: Callable[[str], str]
    second: Callable[[str], str]
    mark: Callable[[str], str]
    text: Callable[[str], str]


MARKDOWN = Markup("**{}**".format, "<u>{}</u>".format, str, str)
LATEX = Markup(
    r"\textbf{{{}}}".format,
    r"\underline{{{}}}".format,
    {BETTER: r"$^{\uparrow}$", WORSE: r"$^{\downarrow}$", "": ""}.__getitem__,
    latex_escape,
)
HTML = Markup(
    markupsafe.Markup("<strong>{}</strong>").format,
    markupsafe.Markup("<u>{}</u>").format,
    markupsafe.escape,
    markupsafe.escape,
)
NOTE = (
    f"AP@0.10, pooled over patients, mean over seeds. Best of a column bold, second underlined. {BETTER} {WORSE}: better, worse "
    f"than {{reference}} of the same detector at {LEVEL:g} after Holm's adjustment over all rows and data sets. Mean and mean "
    "rank (1 = best) of rows that have every data set."
)


@dataclass(frozen=True)
class PaperTable:
    """A line per (detector, init as readers see it).

    Attributes:
        values: a column per data set (other test sets than ``cv`` by name), then ``mean`` and ``mean rank``; NaN = missing.
        marks: of the data sets: ``BETTER``, ``WORSE`` or "".
    """

    values: pd.DataFrame
    marks: pd.DataFrame

    def written(self, markup: Markup) -> pd.DataFrame:
        """All cells as text of that format (dtype object: a string type would drop what marks HTML as safe)."""
        columns = {name: self._column(name, markup) for name in self.values}
        index = self.values.index
        keys = {level: [markup.text(str(value)) for value in index.get_level_values(level)] for level in index.names}
        return pd.DataFrame({**keys, **{markup.text(name): column for name, column in columns.items()}}, dtype="object")

    def _column(self, name: str, markup: Markup) -> list[str]:
        values = self.values[name]
        marks = self.marks[name] if name in self.marks else pd.Series("", values.index)
        place = values.round(3).rank(method="min", ascending=name == MEAN_RANK)
        several = values.notna().sum() > 1
        texts = []
        for value, rank, mark in zip(values, place, marks, strict=True):
            text = NOT_DEFINED if pd.isna(value) else f"{value:.3f}" if name != MEAN_RANK else f"{value:.1f}"
            text = markup.text(text)
            if several and rank <= 2:
                text = markup.best(text) if rank == 1 else markup.second(text)
            texts.append(text + markup.mark(mark))
        return texts


def paper_table(scores: pd.DataFrame, differences: pd.DataFrame, reference: str) -> PaperTable:
    """``scores``, ``differences``: of ``comparison.compare``; detectors by name, the reference init first."""
    scores = _named(scores)
    rows = scores.assign(later=scores["init"] != reference).sort_values(["detector", "later", "init"])
    index = pd.MultiIndex.from_frame(rows[["detector", "name"]].drop_duplicates(), names=["detector", "init"])
    sets = scores.assign(not_cv=scores["test_set"] != "cv").sort_values(["dataset", "not_cv", "test_set"])
    columns = list(sets["column"].unique())
    values = scores.pivot_table(HEADLINE, ["detector", "name"], "column", aggfunc="mean").rename_axis(
        index=["detector", "init"], columns=None
    )
    values = values.reindex(index=index, columns=columns)
    complete = values.dropna()
    mean_rank = ranks(complete.to_numpy().T).mean(axis=0) if len(complete) else []
    values = values.assign(
        **{MEAN: complete.mean(axis=1), MEAN_RANK: pd.Series(mean_rank, complete.index, dtype=float)}
    )
    return PaperTable(values, _marks(_named(differences[differences["metric"] == HEADLINE]), values[columns]))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With ``column`` (data set, and test set where it is no cv) and ``name`` (init as readers see it)."""
    pairs = zip(table["dataset"], table["test_set"], strict=True)
    columns = [dataset if test_set == "cv" else f"{dataset} ({test_set})" for dataset, test_set in pairs]
    inits = [marked(*line) for line in zip(table["init"], table["overlap"], strict=True)]
    return table.assign(column=pd.Series(columns, table.index, dtype="object"), name=inits)


def _marks(differences: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """With several seeds all of them must show the same."""
    marks = pd.DataFrame("", values.index, values.columns)
    for (detector, name, column), lines in differences.groupby(["detector", "name", "column"]):
        shown = (lines["p_holm"] < LEVEL).all()
        if shown and (lines["difference"] > 0).all():
            marks.loc[(detector, name), column] = BETTER
        elif shown and (lines["difference"] < 0).all():
            marks.loc[(detector, name), column] = WORSE
    return marks
