import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_snakemake_finds_nothing_to_complain_about(repository):
    assert "Congratulations" in repository.snakemake("--lint")


def test_workflow_is_formatted():
    command = [str(Path(sys.executable).parent / "snakefmt"), "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HELP = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print("status", end.code)
"""


def test_every_rule_has_a_script_of_its_name_with_a_help(repository):
    rules = {line for line in repository.snakemake("--list-rules").splitlines() if line.isidentifier()}
    rules -= {"all", "probe_baseline"}  # the latter is probe.py without a checkpoint
    scripts = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
    assert rules == {script.stem for script in scripts}
    told = repository.python(HELP, *scripts)
    assert told.count("status 0\n") == told.count("--recipe RECIPE  ") == len(scripts)
