"""Checkpoints from the Hugging Face Hub: ``hf://ORG/REPO@COMMIT[/path/in/repository]`` -> a local file.

The commit is pinned in full, so that a study names the very bytes it starts from. Downloads go through huggingface_hub: its
cache, its token and its variables (``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``) work as everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detpretrain.errors import InputError
from detpretrain.files import atomic_path

SCHEME = "hf://"
FORM = "hf://ORG/REPO@COMMIT[/path/in/repository]"
REFERENCE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/\s]+))?(?:/(?P<path>\S.*?))?/?")
COMMIT = re.compile(r"[0-9a-f]{40}")
SUFFIXES = (".pth", ".pt", ".safetensors")
LOGIN = "log in with hf auth login or set HF_TOKEN"


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository; ``path`` None = the repository's only checkpoint."""

    repo: str
    revision: str
    path: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{self.revision}{f'/{self.path}' if self.path else ''}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit hash, and not a name that can move."""
        return COMMIT.fullmatch(self.revision) is not None


def is_reference(text: str) -> bool:
    return text.startswith(SCHEME)


def parse(reference: str) -> HubFile:
    """Reads ``hf://ORG/REPO@REVISION[/path]``; ``InputError`` for another form or when no revision is named."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise InputError(f"{reference}: not a file on the Hub: write {FORM}")
    if match["revision"] is None:
        raise InputError(f"{reference}: names no revision, so the file can change: pin the commit, {FORM}")
    return HubFile(match["repo"], match["revision"], match["path"])


def fetch(reference: str, target: Path, endpoint: str | None = None) -> None:
    """Downloads a file, or takes it from the cache, and makes it ``target``, whole or not at all.

    ``target`` is a hard link to the cached file where the file system allows it, else a copy.

    Args:
        endpoint: address of the Hub; default ``HF_ENDPOINT`` or huggingface.co.

    Raises:
        InputError: not a pinned reference (the line says which commit the name means now), several files to choose from, no such
            repository, commit or file, no permission, no connection, or no place to write.
    """
    file = parse(reference)
    with _one_line_errors(file):
        if not file.pinned:
            raise InputError(
                f"{file}: {file.revision} is a name that can move: write the commit that it means now, "
                f"{HubFile(file.repo, _commit(file, endpoint), file.path)}"
            )
        from huggingface_hub import hf_hub_download

        path = file.path or _only_checkpoint(file, endpoint)
        cached = hf_hub_download(file.repo, path, revision=file.revision, endpoint=endpoint)
    try:
        _place(Path(cached).resolve(), target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}): choose another folder") from None


def check(reference: str, endpoint: str | None = None) -> None:
    """Asks the Hub whether a reference can be fetched, without downloading it; ``InputError`` as of ``fetch``."""
    file = parse(reference)
    with _one_line_errors(file):
        _commit(file, endpoint)
        if file.path is None:
            _only_checkpoint(file, endpoint)


def _commit(file: HubFile, endpoint: str | None) -> str:
    from huggingface_hub import HfApi

    return str(HfApi(endpoint=endpoint).model_info(file.repo, revision=file.revision).sha)


def _only_checkpoint(file: HubFile, endpoint: str | None) -> str:
    from huggingface_hub import HfApi

    listed = HfApi(endpoint=endpoint).list_repo_files(file.repo, revision=file.revision)
    found = sorted(name for name in listed if name.endswith(SUFFIXES))
    if not found:
        raise InputError(f"{file}: the repository has no {', '.join(SUFFIXES)} file: name another repository")
    if len(found) > 1:
        raise InputError(f"{file}: several checkpoints ({', '.join(found)}): add /NAME of one to the reference")
    return found[0]


def _place(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)


@contextmanager
def _one_line_errors(file: HubFile) -> Iterator[None]:
    """Whatever huggingface_hub raises as one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}: write {FORM}") from None
    except (
        errors.HTTPError,
        errors.EntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.FileMetadataError,
    ) as error:
        raise InputError(f"{file}: {_reason(file, error)}") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: cannot be stored in the local cache ({reason}): make room, or set HF_HOME") from None


def _reason(file: HubFile, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # what the Hub answered before the cache was tried
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return f"access to {file.repo} is restricted: ask for it on its page, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no repository {file.repo} that you may read: check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {file.revision} in {file.repo}: take one from its history on the Hub"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"no such file in {file.repo} at this commit: check the path on its page"
    if status in (401, 403):
        return f"the Hub refuses access to {file.repo} ({status}): {LOGIN} of an account that may read it"
    if status is not None:
        return f"the Hub answers with status {status}: try again later"
    return (
        "not in the local cache, and the Hub cannot be reached: run this where there is a connection (and HF_HUB_OFFLINE "
        "is not set), with the same HF_HOME"
    )
