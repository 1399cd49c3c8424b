"""Seconds until a study of thousands of cells is planned, and until its state is told.

    python benchmarks/large_study.py --cells 2500

Run it in the repository. The study is the smoke study with as many seeds as that takes (four jobs and more per cell); nothing of
it is run. Asked for at 2,500 cells: `snakemake -n` within 15 s, `detpretrain status` within 10 s.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from detpretrain import study
from detpretrain.errors import exit_on_input_error
from detpretrain.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "config" / "smoke.yaml"


def seconds(*command: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def finish(chosen: study.Study) -> None:
    """Results of every cell as far as `status` reads them."""
    for cell in chosen.cells:
        write_json(chosen.folder / "cells" / cell.path / "metrics.json", {"provenance": {}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-study-") as folder:
        override = Path(folder) / "large.yaml"
        per_seed = len(study.load([SMOKE], ROOT).cells)
        seeds = list(range(math.ceil(arguments.cells / per_seed)))
        override.write_text(f"seeds: {seeds}\npathvars: {{results: {folder}/results}}\n")
        chosen = study.load([SMOKE, override], ROOT)
        finish(chosen)
        plan = ("-m", "snakemake", "-n", "-q", "--configfile", str(SMOKE), str(override))
        call = "import sys; from detpretrain.cli import app; app(sys.argv[1:])"
        status = ("-c", call, "status", "--json", "--config", str(SMOKE), "--config", str(override))
        for name, command in (("snakemake -n", plan), ("detpretrain status", status)):
            told = [seconds(*command) for _ in range(arguments.repeats)]
            print(f"{name}: {len(chosen.cells)} cells, {statistics.median(told):.1f} s (median of {arguments.repeats})")


if __name__ == "__main__":
    exit_on_input_error(main)
