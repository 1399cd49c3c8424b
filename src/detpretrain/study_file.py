"""Study files as mappings: several merged as Snakemake merges them, and checked against the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

from detpretrain.errors import InputError, nearest


def merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``other`` over ``base``, mappings merged, all else replaced; an empty mapping changes nothing (Snakemake's rules)."""
    merged = dict(base)
    for key, value in other.items():
        if isinstance(value, Mapping):
            below = merged.get(key, {})
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value) if value else below
        else:
            merged[key] = value
    return merged


def check_schema(config: Any, schema: Mapping[str, Any], source: str) -> None:
    """``InputError`` for the first violation, in one line."""
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if not errors:
        return
    # a misspelt key makes two errors, one unknown and one missing: the unknown one tells what to do
    error = min(errors, key=lambda error: (error.validator != "additionalProperties", list(map(str, error.path))))
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next(key for key in error.instance if key not in known)
        place = f" in {where}" if where else ""
        raise InputError(f"{source}: unknown key {unknown!r}{place}{nearest(unknown, known)}")
    raise InputError(
        f"{source}: {where + ': ' if where else ''}{error.message}: correct it, config/README.md explains every key"
    )
