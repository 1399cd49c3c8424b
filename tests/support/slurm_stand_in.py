"""Programs that answer instead of Slurm's, as its manual pages (22.05) say: a queue in a file, and what was asked.

``queue``: a line per job, the fields of ``squeue -o`` in the order that is asked for. ``scancel`` takes jobs, or whole
arrays, out of it; ``stubborn``: ids of those that stay.
"""

import os
from dataclasses import dataclass
from pathlib import Path

SQUEUE = """#!/bin/sh
# what is set in the environment narrows an answer
env | grep ^SQUEUE_ >> {folder}/narrowed
echo "$@" >> {folder}/squeue.asked
[ -e {folder}/down ] && {{ echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }}
cat {folder}/queue
"""
SCANCEL = """#!/bin/sh
env | grep ^SCANCEL_ >> {folder}/narrowed
echo "$@" >> {folder}/scancel.asked
for id in "$@"; do
    case $id in -*) continue;; esac
    if grep -qx "$id" {folder}/stubborn 2>/dev/null; then
        echo "scancel: error: Kill job error on job id $id: Access/permission denied" >&2; failed=1
    else
        grep -v "^$id|" {folder}/queue > {folder}/rest; mv {folder}/rest {folder}/queue
    fi
done
exit ${{failed:-0}}
"""


@dataclass(frozen=True)
class Slurm:
    folder: Path

    def submit(self, base, name, comment, workdir, *, key=None, shown=None, state="RUNNING", user=None, used="1:02"):
        """Fields of a line of ``squeue -o '%F|%A|%i|%T|%U|%M|%j|%k|%Z'``."""
        user = os.getuid() if user is None else user
        line = "|".join(map(str, (base, key or base, shown or base, state, user, used, name, comment, workdir)))
        with open(self.folder / "queue", "a") as handle:
            handle.write(f"{line}\n")

    def asked(self, program):
        path = self.folder / f"{program}.asked"
        return path.read_text().splitlines() if path.exists() else []

    def queued(self):
        return [line.split("|")[0] for line in (self.folder / "queue").read_text().splitlines()]


def stand_in(folder, monkeypatch) -> Slurm:
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, text in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (programs / name).write_text(text.format(folder=folder))
        (programs / name).chmod(0o755)
    (folder / "queue").touch()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return Slurm(folder)
