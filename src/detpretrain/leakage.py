"""Patients that a pre-trained encoder has seen and that a data set scores: an encoder that has seen the test images.

Only identifiers are compared. A corpus that lists none is neither cleared nor accused: ``compared`` is 0 in its record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError
from detpretrain.tasks import read_table

COLUMNS = ("patient", "source_id")  # of cases.csv, beside session: whatever a case may be known by elsewhere
SHOWN = 10


@dataclass(frozen=True)
class Identities:
    """What the patients of a data set are called.

    A patient, an image series and a session are all identifiers: the same scan may be known by its patient in one collection
    (LIDC-IDRI) and by its series in another (LUNA16). A session that several patients share ("baseline") identifies nobody.

    Plain running numbers meet by chance: two data sets that name their patients 001, 002, ... seem to overlap. Data sets that
    are known to name their patients by different rules say so with different spaces (``identities:`` of a data set's entry) and
    are not compared. A data set without a space is compared with every other one.

    Attributes:
        ids: identifiers, none empty.
        space: name of the id space; None = unknown.
    """

    ids: frozenset[str]
    space: str | None = None

    @classmethod
    def of(cls, ids: Iterable[Any], space: str | None = None) -> Identities:
        """Identifiers as they come: made text, stripped, empty ones left out."""
        return cls(frozenset(filter(None, (str(value).strip() for value in ids))), space)

    @classmethod
    def of_task(cls, folder: Path, space: str | None = None) -> Identities:
        """Everybody in a task folder, test sets included; ``InputError`` when its cases.csv is missing or malformed."""
        return cls._of_table(folder, None, space)

    @classmethod
    def of_cases(cls, folder: Path, cases: Collection[str], space: str | None = None) -> Identities:
        """As ``of_task``, for some cases of the folder.

        Raises:
            InputError: cases.csv is missing or malformed, or lacks one of the cases.
        """
        return cls._of_table(folder, cases, space)

    @classmethod
    def _of_table(cls, folder: Path, cases: Collection[str] | None, space: str | None) -> Identities:
        path = Path(folder) / "cases.csv"
        table = read_table(path)
        missing = [column for column in ("case", *COLUMNS) if column not in table]
        if missing:
            raise InputError(f"{path}: has no column {missing[0]}: prepare the task again")
        chosen = table if cases is None else table[table["case"].isin(set(cases))]
        unknown = sorted(set(cases or ()) - set(chosen["case"]))
        if unknown:
            raise InputError(f"{path}: has no case {unknown[0]}: prepare the task and its splits again")
        values = [value for column in COLUMNS for value in chosen[column]]
        if "session" in table:
            patients = table.groupby("session")["patient"].nunique()
            values += [session for session in chosen["session"] if patients[session] == 1]
        return cls.of(values, space)

    @classmethod
    def of_file(cls, path: Path, space: str | None = None) -> Identities:
        """One identifier per line, ``#`` starts a comment; ``InputError`` when it is missing, not text or lists nobody."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise InputError(f"{path}: file not found: correct patients:") from None
        except (UnicodeDecodeError, OSError) as error:
            raise InputError(f"{path}: cannot be read as text ({error}): write one identifier per line") from None
        found = cls.of((line.partition("#")[0] for line in lines), space)
        if not found.ids:
            raise InputError(f"{path}: lists no identifier: write one per line, or remove patients:")
        return found

    @classmethod
    def from_checkpoint(cls, patients: Any, source: Path) -> list[Identities]:
        """``patients`` of a checkpoint's content, one entry per corpus; ``[]`` when it says nothing.

        Raises:
            InputError: it has another form than ``[{"space": ..., "ids": [...]}]``; ``source`` is named.
        """
        try:
            return [cls.of(_listed(corpus["ids"]), corpus.get("space")) for corpus in patients or ()]
        except (TypeError, KeyError, AttributeError):
            raise InputError(
                f'{source}: patients: not a list of {{"space", "ids"}}: write the checkpoint again'
            ) from None

    def to_json(self) -> dict[str, Any]:
        return {"space": self.space, "ids": sorted(self.ids)}

    def comparable(self, other: Identities) -> bool:
        return self.space is None or other.space is None or self.space == other.space


def overlap(corpora: Sequence[Identities], scored: Identities) -> list[str]:
    """Sorted identifiers of the scored cases that a corpus of a comparable space has too."""
    return sorted(set().union(*(corpus.ids & scored.ids for corpus in corpora if corpus.comparable(scored))))


def patients_named(folder: Path, ids: Collection[str]) -> list[str]:
    """Sorted patients of a task folder that are known by one of these identifiers in some way."""
    table, named = read_table(Path(folder) / "cases.csv"), set(ids)
    known = [column for column in (*COLUMNS, "session") if column in table]
    return sorted(set(table.loc[table[known].isin(named).any(axis=1), "patient"]))


def check(init: str, dataset: str, corpora: Sequence[Identities], scored: Identities, accepted: bool) -> dict[str, Any]:
    """Compares whom an initialisation has seen with whom a data set scores.

    Returns:
        ``init``, ``dataset``, ``compared`` (identifiers of the corpora; 0 = unknown), ``overlap`` (identifiers), ``accepted``.

    Raises:
        InputError: they overlap and that is not accepted.
    """
    common = overlap(corpora, scored)
    if common and not accepted:
        more = f", ... ({len(common) - SHOWN} more)" if len(common) > SHOWN else ""
        raise InputError(
            f"init {init} was pre-trained on {len(common)} identifiers that {dataset} scores "
            f"({', '.join(common[:SHOWN])}{more}): leave them out of the corpus with exclude_cases, or mark the rows with "
            f"accept_overlap: {{{init}: [{dataset}]}} in the study file"
        )
    return {
        "init": init,
        "dataset": dataset,
        "compared": len(set().union(*(corpus.ids for corpus in corpora))),
        "overlap": common,
        "accepted": accepted,
    }


def _listed(ids: Any) -> list[Any]:
    if isinstance(ids, (str, Mapping)):
        raise TypeError
    return list(ids)
