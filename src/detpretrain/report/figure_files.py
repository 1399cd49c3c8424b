"""Figures -> files, by other processes where there are some: two thirds of a report's time are spent on rendering."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from detpretrain.files import atomic_path
from detpretrain.report.style import DPI, style

FORMATS = {
    ".png": None,
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}  # with what would differ from day to day


@dataclass(frozen=True)
class _Renderers:
    pool: ProcessPoolExecutor
    jobs: list[Future[None]] = field(default_factory=list)


_RENDERERS: ContextVar[_Renderers | None] = ContextVar("renderers", default=None)


@contextmanager
def rendered_by(processes: int) -> Iterator[None]:
    """Figures that are saved inside are rendered by so many processes beside this one, or by this one alone for 1.

    After the block all files are there. An exception of a renderer is raised at the end of it. Processes are spawned, so that no
    thread or lock of this one is copied; this one mostly waits for them.
    """
    if processes <= 1:
        yield
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        renderers = _Renderers(pool)
        before = _RENDERERS.set(renderers)
        try:
            yield
        finally:
            _RENDERERS.reset(before)
        for job in renderers.jobs:
            job.result()


def save(figure: Figure, path: Path, data: pd.DataFrame | None = None) -> None:
    """Writes ``path`` (.png), the same figure as .pdf and .svg beside it, and what it shows as .csv; same input, same bytes."""
    if data is not None:
        with atomic_path(path.with_suffix(".csv")) as temporary:
            data.to_csv(temporary, index=False)
    renderers = _RENDERERS.get()
    if renderers is None:
        _render(figure, path)
    else:
        # pickled here and now: the pool would do it in a thread, when it comes to it
        renderers.jobs.append(renderers.pool.submit(_render_pickled, pickle.dumps(figure), path))


def _render_pickled(figure: bytes, path: Path) -> None:
    _render(pickle.loads(figure), path)


def _render(figure: Figure, path: Path) -> None:
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is found: three formats would find it three times
        for suffix, metadata in FORMATS.items():
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
