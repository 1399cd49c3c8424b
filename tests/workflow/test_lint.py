import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.xdist_group("workflow")


def test_snakemake_finds_nothing_to_complain_about(repository):
    assert "Congratulations" in repository.snakemake("--lint")


def test_workflow_is_formatted():
    command = [str(Path(sys.executable).parent / "snakefmt"), "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def helped(script):
    return subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)


def test_every_rule_has_a_script_of_its_name_with_a_help(repository):
    rules = {line for line in repository.snakemake("--list-rules").splitlines() if line.isidentifier()} - {"all"}
    scripts = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
    assert rules == {script.stem for script in scripts}
    with ThreadPool(2) as pool:
        for done in pool.map(helped, scripts):
            assert (done.returncode, done.stderr) == (0, "")
            assert "--recipe" in done.stdout
