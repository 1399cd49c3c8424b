"""A configuration entry -> an object. The only dynamic import of the package."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from detpretrain.errors import InputError


def locate(path: str) -> Any:
    """The attribute that a dotted path names (``package.module.Name``).

    Raises:
        InputError: the module does not import or has no such attribute.
    """
    module_name, _, name = str(path).rpartition(".")
    if not module_name:
        raise InputError(f"class {path!r}: not a dotted path: write package.module.Name")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise InputError(f"class {path!r}: {error}: check the spelling, or install the package") from None
    except AttributeError:
        raise InputError(f"class {path!r}: module {module_name} has no {name}") from None


def build(entry: Mapping[str, Any], **arguments: Any) -> Any:
    """Calls ``entry["class"]`` with the entry's other values and ``arguments``; nested entries are built first.

    A nested mapping is an entry when it has a ``class`` key; other mappings and lists are passed as they are.

    Raises:
        InputError: no ``class``, or arguments that the class does not take.
    """
    if "class" not in entry:
        raise InputError(f"configuration entry {dict(entry)!r} names no class: add class: package.module.Name")
    target = locate(entry["class"])
    own = {key: _built(value) for key, value in entry.items() if key != "class"}
    twice = sorted(own.keys() & arguments.keys())
    if twice:
        raise InputError(f"class {entry['class']}: {twice[0]} is not for a configuration to set: remove it")
    _check_arguments(entry["class"], target, own | arguments)
    return target(**own, **arguments)


def _check_arguments(path: str, target: Any, arguments: Mapping[str, Any]) -> None:
    """Looks at the signature instead of catching what the call raises, which may be a defect of the class."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # some classes written in C have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"class {path}: {error}: known are {', '.join(signature.parameters)}") from None


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and "class" in value:
        return build(value)
    return value
