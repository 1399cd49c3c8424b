"""Metrics of one cell, and of a row over all its folds."""


rule evaluate:
    input:
        raw=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/raw_boxes.parquet",
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
        splits=f"{DATA}/{{dataset}}/task/splits.json",
    output:
        metrics=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/metrics.json",
        matches=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/matches.parquet",
    log:
        f"{HERE}/logs/evaluate/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{HERE}/benchmarks/evaluate/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        recipe=leaves.recipe("evaluate", {}),
        study=STUDY.name,
    shell:
        'python "$SCRIPTS/evaluate.py" --study {params.study} --dataset {wildcards.dataset} --detector {wildcards.detector} '
        "--init {wildcards.init} --fold {wildcards.fold} --seed {wildcards.seed} --recipe {params.recipe} "
        "--task {input.cases} --splits {input.splits} --raw-boxes {input.raw} --metrics {output.metrics} --matches {output.matches} > {log} 2>&1"


# Beside its outputs, a row of a data set with the LUNA16 challenge's files holds luna16_submission.csv and
# luna16_seriesuids.csv. Which data sets have those files is known only once they are prepared, so no rule declares the two.
rule consolidate:
    input:
        raw=lambda wildcards: row_cells(wildcards, "raw_boxes.parquet"),
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
        splits=f"{DATA}/{{dataset}}/task/splits.json",
    output:
        metrics=f"{HERE}/rows/{{dataset}}/{{detector}}/{{init}}/seed{{seed}}/metrics.json",
        matches=f"{HERE}/rows/{{dataset}}/{{detector}}/{{init}}/seed{{seed}}/matches.parquet",
        postprocessing=f"{HERE}/rows/{{dataset}}/{{detector}}/{{init}}/seed{{seed}}/postprocessing.json",
    log:
        f"{HERE}/logs/consolidate/{{dataset}}-{{detector}}-{{init}}-seed{{seed}}.log",
    benchmark:
        f"{HERE}/benchmarks/consolidate/{{dataset}}-{{detector}}-{{init}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "consolidate",
            leaves.consolidate(FAITHFUL_SWEEP, STUDY.folds(wildcards.dataset)),
        ),
        study=STUDY.name,
        folds=lambda wildcards: STUDY.folds(wildcards.dataset),
        sweep="--faithful-sweep" if FAITHFUL_SWEEP else "",
    shell:
        'python "$SCRIPTS/consolidate.py" --study {params.study} --dataset {wildcards.dataset} --detector {wildcards.detector} '
        "--init {wildcards.init} --seed {wildcards.seed} --recipe {params.recipe} --task {input.cases} "
        "--splits {input.splits} --folds {params.folds} --raw-boxes {input.raw} {params.sweep} --metrics {output.metrics} "
        "--matches {output.matches} --postprocessing {output.postprocessing} > {log} 2>&1"
