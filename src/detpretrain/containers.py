"""What a container of the workflow has to be shown: folders outside its image, and GPUs.

Apptainer shows a job the folder that it runs in. Everything else has to be named, which one does through the environment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from detpretrain import hub
from detpretrain.study import Study

IMAGE = "envs/detpretrain.sif"  # where Snakemake runs; an absolute path would make a moved checkout another software
VARIABLES = ("TMPDIR", "HF_HOME")  # whose folders jobs use


def environment(study: Study, files: Sequence[Path], root: Path) -> dict[str, str]:
    """Variables for Apptainer or, where only that is there, Singularity; what is set already stays and is added to.

    Args:
        files: the study files.
        root: the checkout.
    """
    prefix = "APPTAINER" if shutil.which("apptainer") else "SINGULARITY"
    given = [part for part in os.environ.get(f"{prefix}_BIND", "").split(",") if part]
    shown = [path for path in map(str, folders(study, files, root)) if path not in given]
    found = {f"{prefix}_BIND": ",".join([*given, *shown])}
    return found | {f"{prefix}_NV": "1"} if study.config["runtime"].get("gpus", 0) else found


def folders(study: Study, files: Sequence[Path], root: Path) -> list[Path]:
    """Absolute folders that jobs read or write outside the current one, as far as they exist, none below another.

    A link is followed: what it points to has to be shown as well. Of folders that the jobs will make, it is the nearest one above
    that exists.
    """
    here = Path.cwd()
    made = [_existing(folder.absolute()) for folder in (study.results, study.data, study.work)]
    read = [folder.absolute() for folder in (root, *(file.parent for file in files), *_read(study))]
    every = {path for folder in (*made, *read) if folder.is_dir() for path in (folder, folder.resolve())}
    outside = sorted(path for path in every - {Path("/")} if not path.is_relative_to(here))
    return [path for path in outside if not any(path != other and path.is_relative_to(other) for other in outside)]


def _read(study: Study) -> Iterator[Path]:
    """Folders of downloads, of given checkpoints and of what the environment names; a variable that is not set names none."""
    for name in VARIABLES:
        if os.environ.get(name):
            yield Path(os.environ[name])
    stage = study.config["runtime"].get("stage")
    raw = [study.entry("datasets", name).get("raw") for name in sorted(_datasets(study))]
    for folder in (stage, *raw):
        if folder is not None:
            yield Path(os.path.expandvars(folder)).expanduser()
    for init in study.inits:
        entry = study.entry("inits", init)
        given = [entry[key] for key in ("checkpoint", "patients") if key in entry]
        yield from (Path(file).parent for file in given if not hub.is_reference(file))


def _datasets(study: Study) -> set[str]:
    found = {row.dataset for row in study.rows}
    for init, _ in study.pretrainings:
        found.update(study.corpora(init))
    return found | ({study.config["probe"]["dataset"]} if "probe" in study.config else set())


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
