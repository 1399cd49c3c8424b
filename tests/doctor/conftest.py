"""Studies of this repository's entries with results in a temporary folder."""

from pathlib import Path

import pytest
import yaml

from detpretrain import study
from detpretrain.files import read_yaml, write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def assemble(tmp_path):
    """``assemble(name, **changes)`` -> the study of config/NAME.yaml; ``entries``: more of datasets.yaml."""

    def make(name="smoke", entries=None, **changes):
        config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        config |= {"pathvars": {"results": str(tmp_path / "results")}, **changes}
        known = {kind: read_yaml(ROOT / "config" / f"{kind}.yaml") for kind in study.KINDS}
        known["datasets"] |= entries or {}
        plans = {path.stem: read_yaml(path) for path in (ROOT / "config" / "plans").glob("*.yaml")}
        return study.Study({**study.DEFAULTS, **config}, known, plans)

    return make


@pytest.fixture
def write_task():
    """``write_task(study, dataset, cases)``: a prepared task as far as it is read here; cases: id -> (shape, spacing, set)."""

    def write(chosen, dataset, cases, modalities=("CT",)):
        folder = chosen.data / dataset / "task"
        (folder / "raw_splitted" / "imagesTr").mkdir(parents=True)
        names = {str(number): name for number, name in enumerate(modalities)}
        write_json(folder / "dataset.json", {"name": dataset, "labels": {"0": "lesion"}, "modalities": names})
        head = ["case", "patient", "test_set", *(f"spacing_{a}" for a in "zyx"), *(f"shape_{a}" for a in "zyx")]
        lines = [
            [case, case, test_set, *map(str, spacing), *map(str, shape)]
            for case, (shape, spacing, test_set) in cases.items()
        ]
        (folder / "cases.csv").write_text("\n".join(",".join(line) for line in [head, *lines]) + "\n")
        return folder

    return write
