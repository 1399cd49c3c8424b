"""The main table, put together from the comparison's csv files: csv for machines, md, tex and html for readers.

Only the LUNA16 challenge's score comes from elsewhere, the rows' ``metrics.json``: it needs the positions of the detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from detpretrain.comparison.compare import KEY_COLUMNS
from detpretrain.errors import InputError
from detpretrain.evaluation import matches

HEADLINE = "AP@0.10"
CPM = "CPM"
IMPORTED = "imported_cells"
NOT_DEFINED = "–"
OVERLAP_MARK = "†"
_KEPT = ["patients", "objects", HEADLINE, f"{HEADLINE}_low", f"{HEADLINE}_high", "folds"]
_KEPT += [f"{HEADLINE}_fold_mean", f"{HEADLINE}_fold_sd", "mAP@0.10:0.50", "FROC@0.10", "overlap"]
_DIFFERENCE = {
    "reference": "reference",
    "difference": "difference",
    "low": "difference_low",
    "high": "difference_high",
    "p": "p",
    "p_holm": "p_holm",
}
_KEY_TYPES = {name: "int64" if name == "seed" else "str" for name in KEY_COLUMNS}
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    OVERLAP_MARK: r"$\dagger$",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def read_comparison(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``scores.csv`` and ``differences.csv`` of a comparison folder.

    Raises:
        InputError: a file is missing or lacks columns.
    """
    tables = []
    for name, needed in (("scores", [*KEY_COLUMNS, *_KEPT]), ("differences", [*KEY_COLUMNS, "metric", *_DIFFERENCE])):
        path = folder / f"{name}.csv"
        try:
            # A data set or init may be called "NA", "null" or "7": text stays text, only an empty field is missing.
            table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=_KEY_TYPES)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as csv ({error}): run compare again") from None
        absent = [column for column in needed if column not in table]
        if absent:
            raise InputError(f"{path}: no column {', '.join(absent)}: run compare again")
        tables.append(table)
    return tables[0], tables[1]


def main_table(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    cpm: Mapping[matches.Run, float] | None = None,
    imported: Mapping[tuple[str, str, str, int], int] | None = None,
) -> pd.DataFrame:
    """One line per row and test set, numbers unrounded: scores, spread over folds, difference to the reference in AP@0.10.

    Ordered by data set and test set (``cv`` first), then detector, the reference init first. ``cpm``: the LUNA16 challenge's
    score of the rows that have one; ``imported``: how many cells of a row (data set, detector, init, seed) were computed
    elsewhere. Each is a column if there are any.
    """
    of_headline = differences[differences["metric"] == HEADLINE].rename(columns=_DIFFERENCE)
    table = scores[[*KEY_COLUMNS, *_KEPT]].merge(
        of_headline[[*KEY_COLUMNS, *_DIFFERENCE.values()]], on=KEY_COLUMNS, how="left", validate="one_to_one"
    )
    if cpm:
        keys = table[KEY_COLUMNS].itertuples(index=False, name=None)
        table[CPM] = pd.Series([cpm.get(matches.Run(*key)) for key in keys], table.index, dtype="float64")
    if imported:
        rows = table[["dataset", "detector", "init", "seed"]].itertuples(index=False, name=None)
        table[IMPORTED] = [imported.get(row, 0) for row in rows]
    compared = set(map(tuple, of_headline[KEY_COLUMNS].to_numpy()))
    order = table.assign(
        not_cv=table["test_set"] != "cv",
        not_reference=[key in compared for key in table[KEY_COLUMNS].itertuples(index=False, name=None)],
    )
    order = order.sort_values(["study", "dataset", "not_cv", "test_set", "detector", "seed", "not_reference", "init"])
    return table.loc[order.index].reset_index(drop=True)


def readable(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The main table as text: three decimals, intervals in brackets, the sign of every difference, '–' = not defined.

    Inits whose pre-training saw scored patients carry a mark, which ``overlap_note`` explains.
    """
    level = f"[{100 * confidence:g} % CI]"
    several_seeds = table["seed"].nunique() > 1
    columns = {
        "data set": table["dataset"],
        "test set": table["test_set"],
        "detector": table["detector"],
        "init": [marked(*line) for line in table[["init", "overlap"]].itertuples(index=False, name=None)],
        "seed": table["seed"].map(str) if several_seeds else None,
        f"AP@0.10 {level}": _with_interval(table, HEADLINE, f"{HEADLINE}_low", f"{HEADLINE}_high", sign=""),
        f"difference {level}": _with_interval(table, "difference", "difference_low", "difference_high", sign="+"),
        "p": table["p"].map(p_text),
        "p (Holm)": table["p_holm"].map(p_text),
        "folds: mean ± sd": _mean_and_sd(table),
        "mAP@0.10:0.50": table["mAP@0.10:0.50"].map(number),
        "FROC@0.10": table["FROC@0.10"].map(number),
        CPM: table[CPM].map(number) if CPM in table else None,
        "patients": table["patients"].map(str),
        "objects": table["objects"].map(str),
        "imported cells": table[IMPORTED].map(str) if IMPORTED in table else None,
    }
    return pd.DataFrame({name: list(values) for name, values in columns.items() if values is not None})


def marked(init: str, overlap: int) -> str:
    """The name of an init as readers see it: with a dagger where its pre-training saw scored patients."""
    return f"{init} {OVERLAP_MARK}" if overlap > 0 else init


def overlap_note(table: pd.DataFrame) -> str:
    """What the dagger means, with the numbers of patients; empty without a marked row."""
    pairs = table.loc[table["overlap"] > 0, ["dataset", "init", "overlap"]].drop_duplicates()
    if pairs.empty:
        return ""
    numbers = "; ".join(
        f"{init}: {overlap} of the scored patients of {dataset}"
        for dataset, init, overlap in sorted(pairs.itertuples(index=False, name=None))
    )
    return (
        f"{OVERLAP_MARK} pre-trained on patients that are scored ({numbers}), accepted by accept_overlap: "
        "no evidence about pre-training."
    )


def imported_note(table: pd.DataFrame) -> str:
    """How many cells of which rows were computed elsewhere; empty without any."""
    if IMPORTED not in table:
        return ""
    columns = ["dataset", "detector", "init", "seed", IMPORTED]
    rows = sorted(table.loc[table[IMPORTED] > 0, columns].drop_duplicates().itertuples(index=False, name=None))
    if not rows:
        return ""
    numbers = "; ".join(f"{' '.join(map(str, row[:-1]))}: {row[-1]}" for row in rows)
    return f"Cells that were computed elsewhere and imported (data set, detector, init, seed): {numbers}."


def to_markdown(table: pd.DataFrame, note: str = "") -> str:
    """A pipe table of a table of texts, and a note below it."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    text = "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return f"{text}\n{note}\n" if note else text


def to_latex(table: pd.DataFrame, note: str = "") -> str:
    """A booktabs table of texts, a rule between the data sets."""
    written = [[latex_escape(str(cell)) for cell in line] for line in [list(table.columns), *table.to_numpy().tolist()]]
    return booktabs(pd.DataFrame(written[1:], columns=written[0]), note, group=2)


def booktabs(table: pd.DataFrame, note: str = "", group: int = 1) -> str:
    """A ``tabular`` of cells in LaTeX, to be ``\\input`` (preamble: ``\\usepackage{booktabs}``).

    A rule separates lines that differ in the first ``group`` columns; a note, in plain text, stands below, as wide as the text.
    """
    lines = [r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\toprule", _latex_line(table.columns), r"\midrule"]
    previous = None
    for values in table.to_numpy().tolist():
        if previous is not None and values[:group] != previous:
            lines.append(r"\midrule")
        previous = values[:group]
        lines.append(_latex_line(values))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if note:
        lines.append(rf"\par\smallskip{{\footnotesize {latex_escape(note)}\par}}")
    return "\n".join([*lines, ""])


def latex_escape(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _latex_line(cells) -> str:
    # A cell that starts with "[" right behind "\\\\" would be read as its optional argument.
    return " & ".join(f"{{{cell}}}" if str(cell).startswith("[") else str(cell) for cell in cells) + r" \\"


def number(value: float, sign: str = "") -> str:
    return NOT_DEFINED if pd.isna(value) else f"{value:{sign}.3f}".replace("-", "−")


def p_text(value: float) -> str:
    if pd.isna(value):
        return NOT_DEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _with_interval(table: pd.DataFrame, value: str, low: str, high: str, sign: str) -> list[str]:
    texts = []
    for line in table[[value, low, high]].itertuples(index=False, name=None):
        if pd.isna(line[0]):
            texts.append(NOT_DEFINED)
        elif pd.isna(line[1]):
            texts.append(number(line[0], sign))
        else:
            texts.append(f"{number(line[0], sign)} [{number(line[1], sign)}, {number(line[2], sign)}]")
    return texts


def _mean_and_sd(table: pd.DataFrame) -> list[str]:
    texts = []
    for mean, sd in table[[f"{HEADLINE}_fold_mean", f"{HEADLINE}_fold_sd"]].itertuples(index=False, name=None):
        texts.append(number(mean) if pd.isna(sd) else f"{number(mean)} ± {number(sd)}")
    return texts
