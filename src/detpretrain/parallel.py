"""The same function for every case, in several processes, with all bad cases named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from detpretrain.errors import InputError


def map_cases(
    function: Callable[[Any], Any], jobs: Sequence[Any], workers: int, name: Callable[[Any], str], what: str
) -> list[Any]:
    """``[function(job) for job in jobs]`` in the order of ``jobs``, whatever the number of workers.

    ``function`` and jobs must pickle: processes are spawned, so that no thread or lock of this process is copied.
    ``name`` gives a job's case id and ``what`` the verb of the message ("preprocessed").

    Raises:
        InputError: at least one case is bad; one message names all of them. Other exceptions keep their traceback and get
            the case as a note.
    """
    if workers <= 1 or len(jobs) <= 1:
        outcomes = [_attempt(function, job, name) for job in _progress(jobs, len(jobs), what)]
    else:
        outcomes = _in_processes(function, jobs, min(workers, len(jobs)), name, what)
    bad = [f"{name(job)}: {o}" for job, o in zip(jobs, outcomes, strict=True) if isinstance(o, InputError)]
    if bad:
        raise InputError(f"{len(bad)} of {len(jobs)} cases cannot be {what}: " + "; ".join(bad))
    return outcomes


def _in_processes(function: Callable, jobs: Sequence[Any], workers: int, name: Callable, what: str) -> list[Any]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures: list[Future] = [pool.submit(function, job) for job in jobs]
        try:
            return [
                _attempt(Future.result, future, lambda _, job=job: name(job))
                for future, job in zip(_progress(futures, len(futures), what), jobs, strict=True)
            ]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(function: Callable, argument: Any, name: Callable) -> Any:
    """The result, or the ``InputError`` as a value."""
    try:
        return function(argument)
    except InputError as error:
        return error
    except BrokenProcessPool:
        raise InputError(
            f"{name(argument)}: a worker process died at or near this case, most often for want of memory: "
            "use fewer workers or give the job more memory"
        ) from None
    except Exception as error:
        error.add_note(f"case {name(argument)}")
        raise


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A bar on a terminal, nothing in a log file."""
    return tqdm(items, total=total, desc=what, unit="case", disable=None, leave=False)
