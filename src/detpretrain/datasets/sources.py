"""Names for ``from:`` of a data set's entry: the user's own data in a known form, without a line of Python."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from detpretrain.errors import InputError

SOURCES: Mapping[str, str] = {
    "nndetection_task": "detpretrain.datasets.task_folder.TaskFolder",
    "semantic_masks": "detpretrain.datasets.semantic_masks.SemanticMasks",
    "box_table": "detpretrain.datasets.box_table.BoxTable",
    "nnunet": "detpretrain.datasets.nnunet.NnUNetDataset",
    "volumes": "detpretrain.datasets.volume_corpus.VolumeCorpus",
    "nnssl": "detpretrain.datasets.nnssl_listing.NnsslListing",
}


def with_class(dataset: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with ``class:`` in place of ``from:``; without ``from:`` as it is.

    Raises:
        InputError: both keys, or a form that is not known (the nearest one is named).
    """
    if "from" not in entry:
        return dict(entry)
    if "class" in entry:
        raise InputError(f"{dataset}: both from: and class: in the data set's entry: remove one of them")
    name = str(entry["from"])
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(SOURCES)}"
        raise InputError(f"{dataset}: from: {name!r} is not a known form of data: {hint}")
    return {"class": SOURCES[name], **{key: value for key, value in entry.items() if key != "from"}}
