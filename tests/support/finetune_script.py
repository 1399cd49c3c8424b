"""The script of a fine-tuning from scratch on the tiny chest phantoms, in a copy of config/ and workflow/."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from detpretrain import leaves, study
from detpretrain.files import read_yaml

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Workplace:
    """``root``: of the copy; ``nodules``: the prepared data set."""

    root: Path
    nodules: Path
    detector: str

    @classmethod
    def make(cls, root: Path, nodules: Path, detector: str, recipe: str, **changes) -> "Workplace":
        """``changes``: of the values of a recipe."""
        for name in ("config", "workflow"):  # makes the root too
            shutil.copytree(ROOT / name, root / name)
        recipes = read_yaml(root / "config" / "recipes.yaml")
        recipes[recipe] |= changes
        (root / "config" / "recipes.yaml").write_text(yaml.safe_dump(recipes))
        return cls(root, nodules, detector)

    def add_study(self, name: str, **runtime) -> None:
        """A study of one cell."""
        rows = [{"detector": self.detector, "init": "scratch"}]
        config = {"study": name, "size": "smoke", "datasets": ["smoke_nodules"], "rows": rows, "runtime": runtime}
        (self.root / f"{name}.yaml").write_text(yaml.safe_dump(config))

    def command(self, name: str, folder: Path) -> list[str]:
        """Trains the cell of a study into ``folder``: ``model.pth``, ``log.csv``, ``work``."""
        config = self.root / f"{name}.yaml"
        chosen = study.load([config], self.root)
        arguments = {
            "config": config,
            "dataset": "smoke_nodules",
            "detector": self.detector,
            "init": "scratch",
            "fold": 0,
            "seed": 0,
            "recipe": leaves.recipe("finetune", leaves.finetune(chosen, self.detector, "scratch", 0, 0)),
            "index": self.nodules / "preprocessed" / "index.json",
            "splits": self.nodules / "task" / "splits.json",
            "work": folder / "work",
            "model": folder / "model.pth",
            "log": folder / "log.csv",
            "device": "cpu",
        }
        script = self.root / "workflow" / "scripts" / "finetune.py"
        return [sys.executable, str(script), *(f"--{key}={value}" for key, value in arguments.items())]

    def start(self, name: str, folder: Path, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(name, folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until a file is there; the process must not end before."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
