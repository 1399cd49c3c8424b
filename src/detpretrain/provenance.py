"""Where a result came from: recipe, source, commit, packages, machine."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "blosc2", "dynamic-network-architectures", "pandas")


def record(recipe: str, modules: Sequence[str], seed: int | None = None, **more: Any) -> dict[str, Any]:
    """What every result carries.

    Args:
        recipe: hash of the configuration leaves that define the result.
        modules: dotted names of the modules that the stage starts from; all they import of this package counts as source.
        more: further facts (device, threads, seconds, ...).
    """
    return {
        "recipe": recipe,
        "source": source_hash(tuple(modules)),
        **_commit(),
        "versions": {name: metadata.version(name) for name in RECORDED_PACKAGES}
        | {"python": platform.python_version()},
        "seed": seed,
        "host_cpu_count": os.cpu_count(),
        **more,
    }


def class_modules(*entries: Any) -> tuple[str, ...]:
    """Modules of the classes that configuration entries name, nested ones too: imported by name, so no import shows them."""
    return tuple(sorted({path.rpartition(".")[0] for entry in entries for path in _classes(entry)}))


def _classes(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("class"), str):
            yield value["class"]
        for item in value.values():
            yield from _classes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _classes(item)


@cache
def source_hash(modules: tuple[str, ...]) -> str:
    """Hash of the modules and of everything they import from this package; comments and formatting do not change it."""
    digest = hashlib.sha256()
    for path in sorted(closure(modules)):
        digest.update(f"{path.relative_to(PACKAGE)}\0{_source(path).code}\0".encode())
    return digest.hexdigest()[:12]


def closure(modules: Iterable[str]) -> set[Path]:
    """Files of the package that the modules import, directly or not, themselves included; no other packages."""
    found: set[Path] = set()
    waiting = [path for name in modules for path in _files(name)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_source(path).imports)
    return found


@dataclass(frozen=True)
class _Source:
    """``code``: digest of a file without comments and formatting; ``imports``: the package's files that it names."""

    code: str
    imports: tuple[Path, ...]


def _source(path: Path) -> _Source:
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, changed: int) -> _Source:
    """Once for each state of a file: closures of different stages share most of theirs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    code = hashlib.sha256(ast.dump(tree, include_attributes=False).encode()).hexdigest()
    return _Source(code, tuple(_imported(tree)))


def _imported(tree: ast.Module) -> list[Path]:
    files: list[Path] = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # "from package import module" and "from package.module import name" look alike
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        files.extend(file for name in names for file in _files(name))
    return files


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements at any depth; expressions, most of a tree, hold no statements and are left out."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.expr):
            yield node
            yield from _statements(node)


def _files(module: str) -> list[Path]:
    """The file of ``detpretrain.a.b`` and the ``__init__`` files above it; nothing for a foreign or unknown name."""
    root, *parts = module.split(".")
    if root != "detpretrain":
        return []
    path = PACKAGE.joinpath(*parts)
    files = [PACKAGE.joinpath(*parts[:depth], "__init__.py") for depth in range(len(parts) + 1)]
    return [file for file in [path.with_suffix(".py"), *files] if file.is_file()]


@cache
def _commit() -> dict[str, Any]:
    """Commit and whether the tree was changed, None where the package does not run from a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
