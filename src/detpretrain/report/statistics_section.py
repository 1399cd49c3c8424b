"""What the comparison says beyond the main table: a sentence per claim, and the appendix of secondary statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from detpretrain.comparison.mixed_model import FAILED
from detpretrain.errors import InputError
from detpretrain.report.page import PageTable
from detpretrain.report.tables import NOT_DEFINED, number, p_text

_TEXT = ("claim", "text", "verdict", "reason", "detector", "init", "note", "left_out", "winner", "source")


@dataclass(frozen=True)
class Claim:
    """``verdict`` in the words of ``comparison.claims``; ``evidence``: a sentence with the figures."""

    name: str
    text: str
    verdict: str
    evidence: str


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A csv of the comparison; InputError when it is missing or no csv."""
    path = folder / f"{name}.csv"
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(_TEXT, "str"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as csv ({error}): run compare again") from None
    return table.assign(**{column: table[column].fillna("") for column in _TEXT if column in table})


def claims(folder: Path, confidence: float) -> list[Claim]:
    return [_claim(line, confidence) for line in read_table(folder, "claims").to_dict("records")]


def _claim(line: Mapping[str, Any], confidence: float) -> Claim:
    if pd.isna(line["estimate"]):
        return Claim(line["claim"], line["text"], line["verdict"], f"{line['reason'].capitalize()}.")
    interval = f"{100 * confidence:g} % CI {number(line['low'], '+')} to {number(line['high'], '+')}"
    evidence = (
        f"Difference {number(line['estimate'], '+')} AP@0.10 ({interval}, p {p_text(line['p'])}) over "
        f"{_count(line['datasets'], 'data set')} and {_count(line['comparisons'], 'comparison')}"
    )
    reason = f"; {line['reason']}" if line["reason"] else ""
    return Claim(line["claim"], line["text"], line["verdict"], f"{evidence}{reason}.")


def _count(value: int, noun: str) -> str:
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"


def appendix(folder: Path) -> list[PageTable]:
    """Ranks, mixed model, stability and variance; empty tables are left out."""
    content = [
        ("Ranks over data sets", _RANKS_NOTE, _ranks(read_table(folder, "ranks"))),
        ("Linear mixed model", _MODEL_NOTE, _model(read_table(folder, "mixed_model"))),
        ("Does the winner stay?", _STABILITY_NOTE, _stability(read_table(folder, "stability"))),
        ("Sources of variance", _VARIANCE_NOTE, _variance(read_table(folder, "variance"))),
    ]
    return [PageTable(*entry) for entry in content if not entry[2].empty]


def complaints(folder: Path) -> list[str]:
    """What went wrong in the secondary statistics; that something is left out for want of data is no fault."""
    ranked, fitted = read_table(folder, "ranks"), read_table(folder, "mixed_model")
    fitted = fitted[fitted["mean"].notna() | fitted["note"].str.startswith(FAILED)]
    found = [
        f"{name} of {detector}: {note}."
        for name, table in (("Ranks", ranked), ("Linear mixed model", fitted))
        for detector, note in zip(table["detector"], table["note"], strict=True)
        if note
    ]
    return list(dict.fromkeys(found))


def _ranks(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detector": table["detector"],
            "init": table["init"],
            "mean rank [CI]": _with_interval(table, "mean_rank", "low", "high", sign=""),
            "share of draws with the best rank": table["best"].map(number),
            "data sets and test sets": table["blocks"].map(str),
            "Friedman p": table["friedman_p"].map(p_text),
            "critical difference": table["critical_difference"].map(number),
            "note": table["note"],
        }
    )


def _model(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detector": table["detector"],
            "init": table["init"].replace("", NOT_DEFINED),
            "marginal mean [CI]": _with_interval(table, "mean", "mean_low", "mean_high", sign=""),
            "difference [CI]": _with_interval(table, "difference", "low", "high", sign="+"),
            "p": table["p"].map(p_text),
            "note": table["note"],
        }
    )


def _stability(table: pd.DataFrame) -> pd.DataFrame:
    stays = table["stable"].map({True: "yes", False: "no"})
    return pd.DataFrame(
        {
            "detector": table["detector"],
            "left out": table["left_out"],
            "winner": table["winner"],
            "lead": table["lead"].map(number),
            "same as with all": stays.where(table["left_out"] != "nothing", ""),
        }
    )


def _variance(table: pd.DataFrame) -> pd.DataFrame:
    shares = table["share"].map(lambda share: f"{100 * share:.0f} %")
    return pd.DataFrame({"detector": table["detector"], "source": table["source"], "share": shares})


def _with_interval(table: pd.DataFrame, value: str, low: str, high: str, sign: str) -> list[str]:
    return [
        NOT_DEFINED
        if pd.isna(line[0])
        else f"{number(line[0], sign)} [{number(line[1], sign)}, {number(line[2], sign)}]"
        for line in table[[value, low, high]].itertuples(index=False, name=None)
    ]


_RANKS_NOTE = (
    "Rank of the pooled AP@0.10 among the initialisations of a detector (1 = best), mean over data sets and test sets; interval "
    "and share from the same draws of patients as everywhere. Friedman: do the ranks differ at all; critical difference "
    "(Nemenyi): mean ranks closer than that do not. Both treat data sets as a sample and need several; few have little power "
    "(Demšar 2006)."
)
_MODEL_NOTE = (
    "AP@0.10 of each fold by initialisation (fixed), data set and fold within data set (random); REML, Wald intervals. Folds of "
    "one data set share their training cases, so that the intervals are too narrow rather than too wide."
)
_STABILITY_NOTE = "The initialisation of highest mean AP@0.10, with each data set and each fold left out in turn."
_VARIANCE_NOTE = (
    "Share of the spread of the folds' AP@0.10 that data set, fold within data set, initialisation and seed explain, in this "
    "order."
)
