"""Copies of preprocessed data sets on a disk of the node, for trainings that read them over and over.

One copy serves all processes of a user on a node. Whoever reads it holds its lock file shared, whoever makes or removes it holds
the file alone (``flock``): the kernel releases the locks of a process that dies, however it dies, so nothing is stale.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from detpretrain.errors import InputError
from detpretrain.files import digest, read_json
from detpretrain.preprocessing.store import case_files

INDEX = "index.json"
GB = 10**9
SPARE = GB  # bytes that a copy leaves free, for whatever else the node writes there
COPIERS = 4  # files at once: a shared file system answers slowly, and in parallel


@contextmanager
def staged(folders: Sequence[Path], place: str | None) -> Iterator[list[Path]]:
    """Where to read preprocessed folders: copies below ``place``, made unless they are there, removed by their last reader.

    A folder that cannot be copied (no room, no such place) is read where it lies, and a line on stderr says so: what is trained
    is the same, and a week of trainings does not end because a node's disk is full.

    Args:
        place: a folder on a disk of this node, may hold ``$VARIABLES``; None = no copies.

    Raises:
        InputError: a variable of ``place`` is not set, or a file of a data set is missing.
    """
    if place is None:
        yield list(folders)
        return
    with ExitStack() as stack:
        yield [stack.enter_context(_near(Path(folder), expanded(place))) for folder in folders]


def expanded(place: str) -> Path:
    """``place`` with its variables filled in; ``InputError`` for one that is not set."""
    path = os.path.expandvars(place)
    left = re.search(r"\$\{?(\w+)", path)
    if left:
        raise InputError(f"runtime.stage: {place}: environment variable {left[1]} is not set: set it, or name a folder")
    return Path(path)


@dataclass(frozen=True)
class _Copy:
    """``files``: name -> bytes, of ``source``; ``key``: hash of its index, which differs whenever an array does."""

    source: Path
    target: Path
    files: Mapping[str, int]
    key: str

    @property
    def lock(self) -> Path:
        return self.target.with_name(f"{self.target.name}.lock")

    @property
    def part(self) -> Path:
        """What is not whole yet; only the one who holds the lock alone touches it."""
        return self.lock.with_suffix(".part")

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def is_whole(self) -> bool:
        """Every file is there at its size: a machine that went down may have left short ones."""
        try:
            return all((self.target / name).stat().st_size == size for name, size in self.files.items())
        except (FileNotFoundError, NotADirectoryError):
            return False


@contextmanager
def _near(folder: Path, place: Path) -> Iterator[Path]:
    try:
        copy = _planned(folder, place)
        handle = _acquired(copy)
    except OSError as error:
        reason = error.strerror or str(error)
        _say(f"WARNING: {folder} cannot be copied to {place} ({reason}): it is read where it lies, which may be slow")
        yield folder
        return
    try:
        yield copy.target
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: loader processes may still hold the handle
        os.close(handle)
        _remove_unless_used(copy.lock)


def _planned(folder: Path, place: Path) -> _Copy:
    """Raises ``InputError`` for a missing file: a training would miss it too, hours later."""
    index = read_json(folder / INDEX)
    key = digest([folder / INDEX])
    names = [path.name for case in index["cases"] for path in case_files(folder, case["case"])]
    files = {}
    for name in [*names, INDEX]:
        try:
            files[name] = (folder / name).stat().st_size
        except FileNotFoundError:
            raise InputError(f"{folder / name}: file not found: run the preprocessing again") from None
    return _Copy(folder, _own_folder(place) / f"{index['plan']['dataset']}-{key}", files, key)


def _own_folder(place: Path) -> Path:
    """This user's folder on this host below ``place``: other hosts have their own, should ``place`` be shared after all."""
    home = place / f"detpretrain-{os.getuid()}-{socket.gethostname()}"
    with suppress(FileExistsError):
        home.mkdir(mode=0o700)
    if home.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{home} belongs to somebody else")
    return home


def _acquired(copy: _Copy) -> int:
    """The shared lock of a whole copy, which is made here unless somebody has made it."""
    while True:
        handle = _locked(copy.lock, fcntl.LOCK_SH)
        if copy.is_whole():
            _say(f"reading {copy.source} from {copy.target}")
            return handle
        os.close(handle)
        handle = _locked(copy.lock, fcntl.LOCK_EX)
        try:
            if not copy.is_whole():
                _make(copy)
        except OSError:
            _forget(copy.lock)
            raise
        finally:
            os.close(handle)


def _make(copy: _Copy) -> None:
    for path in (copy.target, copy.part):  # what a dead process or machine left
        shutil.rmtree(path, ignore_errors=True)
    for lock in copy.lock.parent.glob("*.lock"):
        if lock != copy.lock:
            _remove_unless_used(lock)
    free = shutil.disk_usage(copy.lock.parent).free
    if copy.size + SPARE > free:
        told = f"{free / GB:.1f} GB free, {copy.size / GB:.1f} GB needed and {SPARE / GB:.0f} to spare"
        raise OSError(errno.ENOSPC, told)
    _say(f"copying {copy.size / GB:.2f} GB of {copy.source} to {copy.target}")
    started = time.monotonic()
    try:
        copy.part.mkdir()
        _copy_files(copy)
        if digest([copy.part / INDEX]) != copy.key:
            raise OSError(errno.EBUSY, "the data set changed meanwhile")
        copy.part.rename(copy.target)
    finally:
        shutil.rmtree(copy.part, ignore_errors=True)
    _say(f"copied in {time.monotonic() - started:.0f} s")


def _copy_files(copy: _Copy) -> None:
    pool = ThreadPoolExecutor(COPIERS)
    try:
        list(pool.map(lambda name: shutil.copyfile(copy.source / name, copy.part / name), copy.files))
    finally:
        pool.shutdown(cancel_futures=True)


def _locked(path: Path, mode: int) -> int:
    """Handle of the lock file once it is ours.

    The last reader removes the file, so the one that was waited for may be gone: then another is made.
    """
    while True:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # the folder was removed just now
        try:
            fcntl.flock(handle, mode)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _remove_unless_used(lock: Path) -> None:
    """Removes a copy that nobody holds."""
    try:
        handle = _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    try:
        for path in (lock.with_suffix(""), lock.with_suffix(".part")):
            shutil.rmtree(path, ignore_errors=True)
        _forget(lock)
    finally:
        os.close(handle)


def _forget(lock: Path) -> None:
    """Removes a lock that is ours alone and, if it was the last one, the folder."""
    lock.unlink(missing_ok=True)
    with suppress(OSError):
        lock.parent.rmdir()


def _say(line: str) -> None:
    """On stderr: of several processes that train together, only the first one has a stdout."""
    print(f"staging: {line}", file=sys.stderr, flush=True)
