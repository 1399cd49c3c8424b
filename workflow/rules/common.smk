"""The study of this run and the paths of its files: read by every rule file."""

import atexit
import gc
import os
import shlex
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from detpretrain import (
    containers,
    files,
    imported,
    job_requests,
    leaves,
    provenance,
    trainers,
    training_speed,
)
from detpretrain.errors import InputError
from detpretrain.selector import Selection
from detpretrain.study import Cell, Row, assemble

# A plan of thousands of jobs is millions of objects that stay: looking through them for garbage is a sixth of the planning,
# and taking them apart at the end, where the process's memory goes as a whole, a seventh.
gc.set_threshold(1_000_000)
atexit.register(gc.freeze)

ROOT = Path(workflow.basedir)

GIVEN = workflow.config_settings.config
if set(GIVEN) - {"only"}:
    raise WorkflowError(
        "--config is not used here, except for only=...: "
        "put the values into a file and add it with --configfile"
    )

try:
    STUDY = assemble(
        {key: value for key, value in config.items() if key not in GIVEN},
        ROOT,
        source=", ".join(map(str, workflow.configfiles)),
    )
    ONLY = Selection.parse(GIVEN["only"]) if GIVEN else None
    STUDY = ONLY.narrow(STUDY) if ONLY else STUDY
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS = STUDY.results
DATA = str(STUDY.data)
HERE = str(STUDY.folder)
# what is made of the selected rows together must not replace what is made of all; cells and rows are the same in both
TOGETHER = f"{HERE}/only/{ONLY.name}" if ONLY else HERE
ONLY_ARGUMENT = f"--only {shlex.quote(str(ONLY))}" if ONLY else ""

RUNTIME = STUDY.config["runtime"]
LOADERS = RUNTIME.get("workers", 0)
PROCESSES = RUNTIME.get("processes", 1)
SHARDS = RUNTIME.get("shards", {})
SHORT_STEPS = 1000
GPUS = 0 if RUNTIME.get("device") == "cpu" else RUNTIME.get("gpus", 0)
NODES = RUNTIME.get("nodes")
PROCESSES_PER_NODE = max(RUNTIME.get("gpus", 0), 1) // (NODES or 1)  # of a training
# of one process where the job asks for its processes as tasks
TRAINING_THREADS = (1 + LOADERS) * (1 if NODES else PROCESSES_PER_NODE)
PROBED = STUDY.config.get("probe", {}).get("dataset")
PROBE = ["probe.json"] if PROBED else []
FAITHFUL_SWEEP = STUDY.config["evaluation"].get("faithful_sweep", False)

# What says only where things lie and how jobs run stays out of the rules' text and params, so that another place does not
# rerun a study: jobs find the scripts and the study files in the environment, and read `runtime:` from the study.
SCRIPTS = shlex.quote(str(ROOT / "workflow" / "scripts"))
STUDY_FILES = shlex.quote(os.pathsep.join(map(str, workflow.configfiles)))
# the interpreter that runs Snakemake, unless rules have an environment of their own, which then runs this checkout's source
INTERPRETER = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
OWN = {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER} & set(
    workflow.deployment_settings.deployment_method
)
if OWN:
    INTERPRETER = (
        f"export PYTHONNOUSERSITE=1 PYTHONPATH={shlex.quote(str(ROOT / 'src'))}; "
    )
if len(OWN) == 2:
    raise WorkflowError(
        "--sdm conda apptainer: give one of them, the image holds the packages"
    )
if DeploymentMethod.APPTAINER in OWN:
    if not Path(containers.IMAGE).is_file():
        raise WorkflowError(
            f"{containers.IMAGE}: image not found: build it (envs/detpretrain.def says how), or put a link to it there"
        )
    os.environ.update(
        containers.environment(
            STUDY, [Path(file) for file in workflow.configfiles], ROOT
        )
    )
# Other engines' executables come last on PATH, so that they replace nothing of this environment.
ENGINES = ":".join(
    str(Path(folder).absolute()) for folder in RUNTIME.get("engines", {}).values()
)
ENGINES_LAST = f'PATH="$PATH":{shlex.quote(ENGINES)} ' if ENGINES else ""
# glibc gives the memory of large tensors back and asks for it again in every step: a tenth of a training's time on a CPU
MALLOC = "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824"
# the first of them is Snakemake's own prefix, which this one replaces
shell.prefix(
    f"set -euo pipefail; {INTERPRETER}export {ENGINES_LAST}{MALLOC} SCRIPTS={SCRIPTS} STUDY={STUDY_FILES}; ".replace(
        "{", "{{"
    ).replace(
        "}", "}}"
    )
)


def training_resources():
    """What a training asks for beside time, memory and processors, of each node.

    Over several nodes it starts its processes itself, by srun: what the Slurm plugin calls an MPI job, whose Snakemake runs in
    the batch script and leaves all of the job to them. GPUs are then counted by node, since Slurm may share out a total unevenly.
    """
    if not NODES:
        return dict(gpu=GPUS) | (dict(nodes=1) if PROCESSES_PER_NODE > 1 else {})
    asked = dict(nodes=NODES, mpi="srun")
    # the plugin knows no number of tasks per node below 2, and takes `tasks` for those of a GPU where that number is not given
    asked |= (
        dict(tasks_per_node=PROCESSES_PER_NODE)
        if PROCESSES_PER_NODE > 1
        else dict(tasks=NODES, tasks_per_gpu=0)
    )
    return asked | (dict(gres=f"gpu:{PROCESSES_PER_NODE}") if GPUS else {})


container: containers.IMAGE


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    plan="[A-Za-z0-9_-]+",
    detector="|".join(STUDY.entries["detectors"]),
    init="|".join(STUDY.entries["inits"]),
    backbone="|".join(STUDY.entries["backbones"]),
    fold=r"\d+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


def prepare_threads(wildcards):
    """Downloads are converted case by case in parallel, generated data are not."""
    return PROCESSES if "raw" in STUDY.entry("datasets", wildcards.dataset) else 1


def prepare_minutes(wildcards):
    return 1440 if "raw" in STUDY.entry("datasets", wildcards.dataset) else 60


def preprocessed_shards(wildcards):
    """The lists of the jobs that preprocess a data set together; none where a single job does, and an engine is one job."""
    count = SHARDS.get(wildcards.dataset, 1)
    if "engine" in STUDY.plan_spec(wildcards.plan):
        return []
    folder = f"{DATA}/{wildcards.dataset}/{wildcards.plan}/shards"
    return [f"{folder}/{i}-of-{count}.json" for i in range(count)] if count > 1 else []


def preprocessing_gpus(wildcards):
    """Preprocessing is for CPUs, except by an engine whose planner measures a GPU."""
    return GPUS if STUDY.plan_spec(wildcards.plan).get("gpu", False) else 0


def detector_plan(wildcards):
    """The plan folder that a detector uses on a data set."""
    return f"{DATA}/{wildcards.dataset}/{STUDY.entry('detectors', wildcards.detector)['plan']}"


def corpora_files(wildcards, name):
    """A file of the task folder of every data set that an initialisation is pre-trained on."""
    return [f"{DATA}/{corpus}/task/{name}" for corpus in STUDY.corpora(wildcards.init)]


def method_plan(init):
    return STUDY.entry("methods", STUDY.entry("inits", init)["method"])["plan"]


def corpora_indices(wildcards):
    return [
        f"{DATA}/{corpus}/{method_plan(wildcards.init)}/preprocessed/index.json"
        for corpus in STUDY.corpora(wildcards.init)
    ]


def given_checkpoint(init):
    """Where a checkpoint lies that this study does not train: fetched from the Hub, or the user's own file."""
    named = STUDY.checkpoint(init)
    if named.startswith("hf://"):
        return f"{RESULTS}/checkpoints/{init}.pth"
    return named


def pretrained_checkpoint(wildcards):
    """The checkpoint of a cell's initialisation; nothing for one that is not pre-trained."""
    if STUDY.checkpoint(wildcards.init):
        return given_checkpoint(wildcards.init)
    if not STUDY.needs_pretraining(wildcards.init):
        return []
    backbone = STUDY.entry("detectors", wildcards.detector)["backbone"]
    return f"{HERE}/pretrained/{wildcards.init}/{backbone}/checkpoint.pth"


def leakage_file(init, dataset):
    return f"{HERE}/leakage/{init}/{dataset}.json"


def is_pretrained(init):
    return STUDY.needs_pretraining(init) or bool(STUDY.checkpoint(init))


def all_leakage():
    """What the guard found, of every pre-trained row."""
    return sorted(
        {
            leakage_file(row.init, row.dataset)
            for row in STUDY.rows
            if is_pretrained(row.init)
        }
    )


def all_pretrainings(name):
    return [
        f"{HERE}/pretrained/{init}/{backbone}/{name}"
        for init, backbone in STUDY.pretrainings
    ]


def training_priority(wildcards):
    """Short trainings before predictions, so that no core waits for the last of them; of long ones, results come first."""
    recipe = STUDY.entry("detectors", wildcards.detector).get("recipe")
    return 5 if recipe and training_speed.steps(STUDY, recipe) <= SHORT_STEPS else 0


def retries(jobs):
    """Of trainings that need so many jobs, one for a lost node included; None = as the profile or the command line says."""
    return jobs if jobs > 1 else None


@cache
def finetune_minutes(detector):
    return job_requests.finetune_minutes(STUDY, detector)


@cache
def pretrain_minutes(init, backbone):
    return job_requests.pretrain_minutes(STUDY, init, backbone)


@cache
def finetune_memory(detector):
    return job_requests.finetune_memory(STUDY, detector)


@cache
def pretrain_memory(init):
    return job_requests.pretrain_memory(STUDY, init)


@cache
def preparation_memory(dataset, processes):
    return job_requests.preparation_memory(STUDY, dataset, processes)


@cache
def prediction_memory(dataset, detector):
    return job_requests.prediction_memory(STUDY, dataset, detector)


def more_after_out_of_memory(megabytes, work):
    """Twice as much for every time that the training ran out of memory; a retry after anything else asks for no more."""
    return megabytes * 2 ** trainers.out_of_memory(STUDY.work / work)


def row_cells(wildcards, name):
    """A file of every cell of a row."""
    folds = STUDY.folds(wildcards.dataset)
    cells = [
        Cell(
            wildcards.dataset,
            wildcards.detector,
            wildcards.init,
            fold,
            int(wildcards.seed),
        )
        for fold in folds
    ]
    return [f"{HERE}/cells/{cell.path}/{name}" for cell in cells]


def all_rows(name):
    return [f"{HERE}/rows/{row.path}/{name}" for row in STUDY.rows]


def all_cells(name):
    return [f"{HERE}/cells/{cell.path}/{name}" for cell in STUDY.cells]


def targets():
    """The report; of a selection without whole rows, its cells."""
    if ONLY and not ONLY.whole_rows:
        return all_cells("metrics.json")
    return [f"{TOGETHER}/report/report.html"]
