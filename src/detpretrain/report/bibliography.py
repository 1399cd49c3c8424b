"""References as BibTeX: from citation texts, as checkpoints and data sets carry them, to a ``.bib`` file in UTF-8 (biber).

Three forms of text are understood; any other one is kept whole:

* APA, as in ``apa_citations`` of a checkpoint: ``He, K., & Girshick, R. (2022). Title. In Proceedings (pp. 1-2). Springer.``
* authors, title, venue, year, as a data set's ``citation``: ``Armato et al., Title, Medical Physics 38, 2011``
* names with bare initials: ``Mei J, Zhang H. Title. Medical Physics 38, 2011``

Where the end of a title or the kind of a venue is uncertain, the words stay as they are in ``howpublished``.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, product

from detpretrain.report.pretraining_section import Reference
from detpretrain.report.tables import latex_escape

ORDER = (
    "author", "title", "booktitle", "journal", "volume", "number", "pages", "publisher", "howpublished", "year", "eprint",
    "archivePrefix", "primaryClass", "doi", "url", "note", "annote",
)  # fmt: skip
# biber and the url package take these as they are: an escape would be part of the link
VERBATIM = ("eprint", "doi", "url")
PUBLISHERS = ("ACM", "Elsevier", "IEEE", "PMLR", "Springer", "Springer, Cham", "Springer International Publishing")

_YEAR = r"(?P<year>(?:19|20)\d\d)"
_SURNAME = r"[^\W\d_][^\d_,&@/:;()]*"
_CAPITALISED = r"[^\W\d_a-z][\w’'-]*"
_BARE_INITIALS = r"[^\W\d_][^\d_,.&]* [A-Z]{1,4}"
_ARXIV = r"arXiv[:. ] ?(?P<id>\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?: ?\[(?P<class>[\w.-]+)\])?"
_PAGES = r"(?P<pages>\w[\w.]*(?: ?[-–—] ?[\w.]+)?)"

APA = re.compile(rf"(?P<authors>[^()]+) \({_YEAR}[a-z]?(?:, (?P<when>[^()]+))?\)\. (?P<rest>.+)")
COMMAS = re.compile(
    rf"(?P<authors>.{{1,500}}? et al\.?|{_CAPITALISED}(?: (?:and|&) {_CAPITALISED})?), (?P<title>(?![A-Z]\.).+), "
    rf"(?P<venue>[^,]+), {_YEAR}\.?"
)
BARE = re.compile(rf"(?P<authors>{_BARE_INITIALS}(?:, {_BARE_INITIALS})*(?:,? et al)?)\. (?P<rest>.+), {_YEAR}\.?")
LINK = re.compile(
    r"(?P<text>.*?)(?: (?:Retrieved from|Available at|URL):?)?(?:^| )(?P<link>https?://\S+|doi: ?10\.\S+)",
    re.IGNORECASE,
)
DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi: ?)(?P<doi>10\..+)", re.IGNORECASE)
ARXIV_LINK = re.compile(r"(?:arxiv\.org/(?:abs|pdf)/|10\.48550/arxiv\.)(?P<id>\d{4}\.\d{4,5}(?:v\d+)?)", re.IGNORECASE)
OTHERS = re.compile(r",?(?: (?:&|and))? et al\b\.?|, ?(?:\. ?){3}|,? ?…")
INITIALS = re.compile(r"(?:[^\W\d_]{1,2}\.[ -]?)+")
# A sentence ends before a capital or a figure; few venues start with a small letter.
SENTENCE_END = re.compile(r"(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)[.?!](?= (?:[^\W_a-z]|arXiv|bioRxiv|medRxiv|npj |eLife))")
CONTAINER = re.compile(r"[.?!] (?=In [^\W_a-z])")
ARXIV_ONLY = re.compile(rf"(?:arXiv(?: preprint)?[,.:]? )?{_ARXIV}", re.IGNORECASE)
JOURNAL = re.compile(
    r"(?P<journal>[^\W\d_].*?),? (?P<volume>(?!(?:19|20)\d\d\b)\d{1,4}) ?(?:\((?P<number>[^()]+)\))?"
    rf"(?:(?:, ?(?:pp?\. )?|: ?){_PAGES})?"
)
PROCEEDINGS = re.compile(
    rf"In (?P<booktitle>.+?) \((?:Vol\. (?P<volume>\w+)(?:, )?)?(?:pp?\. {_PAGES})?\)(?:\. (?P<publisher>.+))?"
)
# letters that no decomposition turns into ASCII
_FOLDED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "ae", "œ": "oe", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l", "đ": "d", "ı": "i"}
)


@dataclass(frozen=True)
class Work:
    """A text that cites one work (or several, "; " between them), and who asks for it: names of inits and of data sets."""

    text: str
    inits: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """``key``: before it is made unique; ``fields``: name -> value in LaTeX, without the outer braces."""

    kind: str
    key: str
    fields: Mapping[str, str]


def works(references: Iterable[Reference], citations: Mapping[str, str]) -> list[Work]:
    """What a report cites: the pre-trainings' references, and data set -> its ``citation``."""
    found = [Work(text, inits=reference.inits) for reference in references for text in reference.texts]
    return found + [Work(text, datasets=(dataset,)) for dataset, text in citations.items()]


def bibtex(works: Iterable[Work]) -> str:
    """One entry per distinct text, ordered by key; the order of ``works`` does not matter, blank texts have none.

    ``note`` says who uses the work. A text in no known form becomes a ``misc`` whose ``note`` is the text; who uses it is in
    ``annote`` then.
    """
    users: dict[str, tuple[set[str], set[str]]] = {}
    for work in works:
        for text in _separate(_printable(work.text)):
            inits, datasets = users.setdefault(text, (set(), set()))
            inits.update(work.inits)
            datasets.update(work.datasets)
    entries = {text: _read(text) or _whole(text) for text in users}
    keys = _unique({text: entry.key for text, entry in entries.items()})
    return "\n".join(_written(keys[text], entries[text], _usage(*users[text])) for text in sorted(keys, key=keys.get))


def _printable(text: str) -> str:
    """Single spaces; without characters that LaTeX or a file in UTF-8 cannot hold."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _separate(text: str) -> list[str]:
    """A text of several works as one text each, if every part is in a known form."""
    parts = text.split("; ")
    if len(parts) > 1 and all(map(_read, parts)):
        return parts
    return [text] if text else []


def _read(text: str) -> _Entry | None:
    """The entry of a text in one of the known forms; None for any other text."""
    before, link = _without_link(text)
    found = _apa(before) or _commas(before) or _bare(before)
    if found is None or not found["title"]:
        return None
    names, title, year, venue = found["names"], found["title"], found["year"], found["venue"]
    kind = venue.pop("kind")
    fields = {"title": title, "year": year, **link, **venue, "note": found.get("when") or ""}
    if "eprint" in fields:
        fields["archivePrefix"] = "arXiv"
    written = {name: _verbatim(value) if name in VERBATIM else _escaped(value) for name, value in fields.items()}
    return _Entry(kind, _key(names[0], year, title), {**written, "author": " and ".join(map(_name, names))})


def _whole(text: str) -> _Entry:
    word = next(filter(None, map(_folded, re.findall(r"\w+", text))), "work")
    year = re.search(rf"\b{_YEAR}\b", text)
    return _Entry("misc", word[:40] + (year["year"] if year else ""), {"note": f"{{{_escaped(text)}}}"})


def _apa(text: str) -> dict | None:
    found = APA.fullmatch(text)
    names = _names(found["authors"]) if found else None
    if found and names is None and found["authors"].endswith("."):
        institution = re.sub(r"(?<=\w\w)\.$", "", found["authors"])
        names = [f"{{{institution}}}"]
    if not names:
        return None
    title, venue = _title_and_venue(found["rest"])
    return {"names": names, "title": title, "venue": venue, "year": found["year"], "when": found["when"]}


def _commas(text: str) -> dict | None:
    found = COMMAS.fullmatch(text)
    names = _names(found["authors"], initials=False) if found else None
    if not names:
        return None
    return {"names": names, "title": found["title"], "venue": _venue(found["venue"]), "year": found["year"]}


def _bare(text: str) -> dict | None:
    found = BARE.fullmatch(text)
    if not found:
        return None
    authors = OTHERS.sub("", found["authors"])
    pairs = [author.rpartition(" ") for author in authors.split(", ")]
    names = [f"{surname}, {'. '.join(letters)}." for surname, _, letters in pairs]
    title, venue = _title_and_venue(found["rest"])
    others = [] if authors == found["authors"] else ["others"]
    return {"names": names + others, "title": title, "venue": venue, "year": found["year"]}


def _names(text: str, initials: bool = True) -> list[str] | None:
    """``Surname, I., Surname, I. I., & Surname, I.`` -> "Surname, I." each, ``others`` last for "et al." and for names left out
    between; None if it is no such list. Surnames may stand alone before an "et al.", or where ``initials`` are not asked for.
    """
    listed = OTHERS.sub(", ", text)
    others = listed != text
    parts = [part for part in map(str.strip, re.split(r",|&|\band\b", listed)) if part]
    names = []
    while parts:
        surname = parts.pop(0)
        if not re.fullmatch(_SURNAME, surname):
            return None
        if parts and INITIALS.fullmatch(parts[0]):
            given = parts.pop(0)
            suffix = f"{parts.pop(0)}, " if parts and parts[0] in ("Jr.", "Sr.", "II", "III") else ""
            names.append(f"{surname}, {suffix}{given}")
        elif others or not initials:
            names.append(surname)
        else:
            return None
    return [*names, "others"] if names and others else names or None


def _title_and_venue(text: str) -> tuple[str, dict[str, str]]:
    """``Title. Venue.`` in two: at the last ". In ", else at the only full stop between sentences; of several ones the first."""
    text = text.removesuffix(".")
    containers, ends = list(CONTAINER.finditer(text)), list(SENTENCE_END.finditer(text))
    stops = [end for end in ends if end[0] == "."] or ends
    if not (containers or stops):
        return text, {"kind": "misc"}
    end = containers[-1] if containers else stops[0]
    title, venue = text[: end.start() + 1].removesuffix("."), text[end.start() + 2 :]
    return title, _venue(venue) if containers or len(stops) == 1 else _uncertain(venue)


def _venue(text: str) -> dict[str, str]:
    """The fields of a venue and the ``kind`` of the entry."""
    if found := ARXIV_ONLY.fullmatch(text):
        return {"kind": "misc", "eprint": found["id"], "primaryClass": found["class"] or ""}
    if "(Ed.)" in text or "(Eds.)" in text:
        return _uncertain(text)
    if found := PROCEEDINGS.fullmatch(text):
        return {"kind": "inproceedings", **_given(found)}
    if text.startswith("In "):
        booktitle, _, publisher = text.removeprefix("In ").rpartition(". ")
        if publisher in PUBLISHERS:
            return {"kind": "inproceedings", "booktitle": booktitle, "publisher": publisher}
        return {"kind": "inproceedings", "booktitle": text.removeprefix("In ")}
    if found := JOURNAL.fullmatch(text):
        return {"kind": "article", **_given(found)}
    return _uncertain(text)


def _uncertain(text: str) -> dict[str, str]:
    found = re.search(_ARXIV, text, re.IGNORECASE)
    return {"kind": "misc", "howpublished": text, **({"eprint": found["id"]} if found else {})}


def _given(found: re.Match[str]) -> dict[str, str]:
    fields = {name: value for name, value in found.groupdict().items() if value}
    return fields | {"pages": re.sub(r" ?[-–—] ?", "--", fields.get("pages", ""))}


def _without_link(text: str) -> tuple[str, dict[str, str]]:
    """The text before an address or DOI at its end, and the fields of that."""
    found = LINK.fullmatch(text)
    if not found:
        return text, {}
    link = found["link"].rstrip(".,;")
    doi, arxiv = DOI.fullmatch(link), ARXIV_LINK.search(link)
    fields = {"doi": doi["doi"]} if doi else {"url": link}
    return found["text"].rstrip(), fields | ({"eprint": arxiv["id"]} if arxiv else {})


def _name(name: str) -> str:
    return f"{{{_escaped(name[1:-1])}}}" if name.startswith("{") else _escaped(name)


def _escaped(text: str) -> str:
    r"""For LaTeX. Braces by name: BibTeX counts those of ``\{`` too, and one alone would swallow the rest of the file."""
    return latex_escape(text).replace(r"\{", r"\textbraceleft{}").replace(r"\}", r"\textbraceright{}")


def _verbatim(text: str) -> str:
    return text.replace("\\", "%5C").replace("{", "%7B").replace("}", "%7D")


def _folded(text: str) -> str:
    """Its ASCII letters and figures, small."""
    letters = unicodedata.normalize("NFKD", text.translate(_FOLDED)).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]", "", letters.lower())


def _key(name: str, year: str, title: str) -> str:
    """Surname of the first author, year, first word of the title that is no article: ``he2022masked``."""
    surname = "".join(part for part in name.partition(",")[0].split() if not part.endswith("."))
    words = filter(None, map(_folded, re.findall(r"[^\W_]+", title)))
    word = next((word for word in words if word not in ("a", "an", "the")), "")
    return f"{_folded(surname) or 'work'}{year}{word}"


def _unique(wanted: Mapping[str, str]) -> dict[str, str]:
    """Text -> key; where several texts want the same one, each gets a letter behind it, in the order of the texts."""
    wanting = Counter(wanted.values())
    keys = {text: key for text, key in wanted.items() if wanting[key] == 1}
    taken = set(wanted.values())
    for text in sorted(wanted.keys() - keys.keys()):
        letters = ("".join(some) for length in count(1) for some in product(string.ascii_lowercase, repeat=length))
        keys[text] = next(key for key in (wanted[text] + letter for letter in letters) if key not in taken)
        taken.add(keys[text])
    return keys


def _usage(inits: set[str], datasets: set[str]) -> str:
    parts = [f"used by: {', '.join(sorted(inits))}"] if inits else []
    if datasets:
        parts.append(f"data set{'s' if len(datasets) > 1 else ''} {', '.join(sorted(datasets))}")
    return "; ".join(parts)


def _written(key: str, entry: _Entry, usage: str) -> str:
    fields = dict(entry.fields)
    if "title" in fields:
        fields["title"] = f"{{{fields['title']}}}"  # styles leave the case of what is in braces alone
        fields["note"] = "; ".join(filter(None, [fields["note"], _escaped(usage)]))
    else:
        fields["annote"] = _escaped(usage)
    lines = [f"  {name} = {{{fields[name]}}},\n" for name in ORDER if fields.get(name)]
    return f"@{entry.kind}{{{key},\n{''.join(lines)}}}\n"
