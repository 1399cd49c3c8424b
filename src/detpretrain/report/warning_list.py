"""What a reader must know before trusting the tables: one line per warning, at the top of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from detpretrain.report.cell_pages import CellRecord
from detpretrain.report.pretraining_section import Pretraining

FRESH = "fresh"  # detpretrain.status says so
NAMED = 6


def warning_list(
    missing: Sequence[str],
    cells: Sequence[CellRecord],
    scores: pd.DataFrame,
    complaints: Sequence[str],
    trained: Sequence[Pretraining],
    overlap_note: str,
    optimistic: Sequence[str] = (),
) -> list[str]:
    """``missing``: what the study has and these results lack, by name. ``scores``, ``complaints``: of the
    comparison. ``optimistic``: rows whose post-processing was chosen on the cases that score them.
    """
    return [
        *_missing(missing),
        *_stale(cells),
        *_imported(cells),
        *([overlap_note] if overlap_note else []),
        *_optimistic(optimistic),
        *_few(scores),
        *complaints,
        *_untaught(trained),
    ]


def _missing(missing: Sequence[str]) -> Iterator[str]:
    if missing:
        yield f"Incomplete: {len(missing)} of the study's results are missing ({_named(missing)}). Tables hold what is there."


def _stale(cells: Sequence[CellRecord]) -> Iterator[str]:
    counts = Counter(cell.state for cell in cells if cell.state != FRESH)
    for state, count in sorted(counts.items()):
        named = _named([cell.anchor.removeprefix("cell-") for cell in cells if cell.state == state])
        yield f"{count} of {len(cells)} cells do not come from today's source and configuration ({state}): {named}."


def _optimistic(rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield (
            f"Post-processing was chosen on the scored cases themselves, as nnDetection does, in {len(rows)} of the rows, "
            f"which are optimistic beside the others: {_named(rows)}."
        )


def _imported(cells: Sequence[CellRecord]) -> Iterator[str]:
    """One line per origin."""
    for origin in sorted({cell.imported for cell in cells if cell.imported}):
        named = [cell.anchor.removeprefix("cell-") for cell in cells if cell.imported == origin]
        were = "was" if len(named) == 1 else "were"
        yield f"{len(named)} of {len(cells)} cells {were} not computed here but imported from {origin}: {_named(named)}."


def _few(scores: pd.DataFrame) -> Iterator[str]:
    """Data sets whose numbers say less than they seem to."""
    for (dataset, test_set), lines in scores.groupby(["dataset", "test_set"], sort=True):
        name = f"{dataset} ({test_set})"
        line = lines.iloc[0]
        if line["patients"] < 2:
            yield f"{name}: a single patient: no intervals and no p values."
        if test_set == "cv" and line["folds"] == 1:
            yield f"{name}: one fold: no spread over folds; the luck of its split is not in any interval."
        share = lines["undefined_draws"].max() / line["resamples"]
        if line["patients"] > 1 and share > 0:
            yield f"{name}: {100 * share:.1f} % of the bootstrap draws held no object and are left out of the intervals."


def _untaught(trained: Sequence[Pretraining]) -> Iterator[str]:
    for one in trained:
        for score in one.scores:
            if score.beats_baseline is False:
                yield f"Pre-training {one.name} does not beat {score.baseline_name} on its own task ({score.name})."


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
