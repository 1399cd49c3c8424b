"""Which module may import which: read from the source, and tried for those that must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "detpretrain"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ENDS = ("cli", "cli_study", "doctor", "importing", "study_report")  # import anything, and nothing else imports them

# Parts of the package (its folders and single modules) from the ground up: each imports its own layer and lower ones.
LAYERS = (
    {
        "errors",
        "files",
        "lock_file",
        "job_log",
        "build",
        "seeds",
        "boxes",
        "geometry",
        "volumes",
        "dicom",
        "splits",
        "provenance",
        "hub",
        "parallel",
        "termination",
        "pretraining_kinds",
        "time_limit",
        "trainers",
        "engine_entries",
    },
    {"tasks", "folds", "case_files", "task_writer", "task_validation", "evaluation", "leakage"},
    {"datasets", "preprocessing", "loading", "models", "comparison"},
    {"pretraining", "detectors", "report"},
    {"training", "inference", "engines"},
)
# The study's configuration stands beside them: what computes results is given values and never looks a study up.
CONFIGURATION = {
    "study",
    "study_file",
    "selector",
    "leaves",
    "jobs",
    "trainings",
    "attempts",
    "status",
    "status_table",
    "watch",
    "clean",
    "rerun",
    "training_speed",
    "job_requests",
    "containers",
    "imported",
    "snakemake_runs",
    "slurm_queue",
    "unlock",
}
# preprocessing for what a plan needs in memory
CONFIGURATION_USES = {"errors", "files", "lock_file", "job_log", "provenance", "hub", "pretraining_kinds"}
CONFIGURATION_USES |= {"time_limit", "trainers", "engine_entries", "preprocessing"}
NEVER = {
    "pretraining": {"detectors"},
    "detectors": {"pretraining"},
    "models": {"datasets", "preprocessing", "loading"},
    "datasets": {"preprocessing", "loading", "models"},
    "preprocessing": {"datasets", "loading", "models"},
    "evaluation": {"tasks", "case_files", "task_writer", "task_validation"},
    "comparison": {"datasets", "preprocessing", "loading", "models"},
    "report": {"datasets", "preprocessing", "loading", "models", "pretraining", "detectors"},
}
# a study has hundreds of short jobs of these
WITHOUT_TORCH = {"evaluation", "comparison", "report", "leakage", "engines", "importing"} | CONFIGURATION | LAYERS[0]


def part(name):
    """detpretrain.a.b, a/b.py or a.py -> a."""
    return name.removeprefix("detpretrain.").removesuffix(".py").replace("/", ".").split(".")[0]


MODULES = [name for name in FILES if part(name) not in ("__init__", *ENDS)]


def imported(name):
    """Dotted names that a file imports, wherever in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import, which provenance does not follow"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_used(name):
    return {part(module) for module in imported(name) if module.startswith("detpretrain.")} - {part(name)}


def test_every_part_has_a_place():
    assert {part(name) for name in MODULES} <= set().union(*LAYERS) | CONFIGURATION


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    own = part(name)
    allowed = CONFIGURATION | CONFIGURATION_USES
    for depth, layer in enumerate(LAYERS):
        if own in layer:
            allowed = set().union(*LAYERS[: depth + 1]) - NEVER.get(own, set())
    strangers = parts_used(name) - allowed
    assert not strangers, f"{name} imports {', '.join(sorted(strangers))}"


def test_modules_import_each_other_in_no_circle():
    dotted = {f"detpretrain.{name.removesuffix('.py').replace('/', '.')}": name for name in MODULES}
    uses = {module: set(imported(name)) & set(dotted) for module, name in dotted.items()}
    while uses:
        leaves = {module for module, used in uses.items() if not used & set(uses)}
        assert leaves, f"a circle among {', '.join(sorted(uses))}"
        uses = {module: used for module, used in uses.items() if module not in leaves}


def test_short_jobs_load_without_torch():
    names = [name for name in FILES if part(name) in WITHOUT_TORCH]
    modules = [f"detpretrain.{name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for name in names]
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", [name for name in FILES if part(name) in WITHOUT_TORCH])
def test_short_jobs_name_no_torch_anywhere(name):
    """Within functions too, where loading the module does not show it."""
    assert "torch" not in {module.split(".")[0] for module in imported(name)}
