"""What the study's intervals and p values are worth: simulated studies with a known truth.

    make bench-stats
    python benchmarks/calibration.py --repetitions 200 --patients 40

Two rows are simulated on patients with 1 to some 8 objects that resemble each other (``comparison.simulation``). Printed per
number of patients:

- false positives: share of studies without an effect whose paired bootstrap has p < 0.05 (asked for: 0.03 to 0.07 at 200);
- the same with objects drawn instead of patients, the wrong unit, for contrast;
- power: share of studies with a planted effect that find it, and the power computed from the standard error (within 0.1);
- coverage of the 95 % interval of one row's AP (0.93 to 0.97).

Exit status 1 when a figure at 200 patients misses; those at other numbers are reported as they are.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from detpretrain.comparison.calibration import Calibration, calibrate
from detpretrain.comparison.simulation import Population
from detpretrain.files import write_json

JUDGED_AT = 200


def misses(found: Calibration) -> list[str]:
    """Which of the asked-for figures are missed."""
    checks = {
        "false positives": 0.03 <= found.false_positives <= 0.07,
        "power": abs(found.power - found.computed_power) <= 0.1,
        "coverage": 0.93 <= found.coverage <= 0.97,
        "objects as the unit are not worse": found.false_positives_by_object > found.false_positives,
    }
    return [name for name, passed in checks.items() if not passed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[JUDGED_AT, 40])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument(
        "--effect", type=float, default=0.3, help="planted, on the logit scale of an object's visibility"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    results, missed = [], []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for patients in arguments.patients:
            found = calibrate(
                Population(effect=arguments.effect),
                patients,
                arguments.repetitions,
                arguments.resamples,
                arguments.seed,
                pool.map,
            )
            results.append({"patients": patients, **asdict(found)})
            print(json.dumps(results[-1]), flush=True)
            if patients == JUDGED_AT:
                missed = misses(found)
    print(f"missed at {JUDGED_AT} patients: {', '.join(missed)}" if missed else "all figures within their limits")
    if arguments.json:
        write_json(arguments.json, results)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
