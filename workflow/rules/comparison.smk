"""Statistics over the rows, then tables and figures. Cheap: these rerun when their own source changes."""


rule compare:
    input:
        rows=all_rows("matches.parquet"),
        leakage=all_leakage(),
    output:
        scores=f"{HERE}/comparison/scores.csv",
        folds=f"{HERE}/comparison/folds.csv",
        differences=f"{HERE}/comparison/differences.csv",
    log:
        f"{HERE}/logs/compare.log",
    benchmark:
        f"{HERE}/benchmarks/compare.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        recipe=leaves.recipe("compare", leaves.compare(STUDY)),
        source=provenance.source_hash(("detpretrain.comparison.compare",)),
        leakage=lambda wildcards, input: (
            f"--leakage {input.leakage}" if input.leakage else ""
        ),
    shell:
        'python "$SCRIPTS/compare.py" --config "$STUDY" --recipe {params.recipe} --rows {input.rows} {params.leakage} '
        "--output {output.scores} > {log} 2>&1"


rule report:
    input:
        scores=f"{HERE}/comparison/scores.csv",
        differences=f"{HERE}/comparison/differences.csv",
        rows=all_rows("matches.parquet"),
        metrics=all_rows("metrics.json"),
        logs=all_cells("log.csv"),
        cells=all_cells("metrics.json"),
        pretrained=[
            file
            for name in ("log.csv", "assessment.json", "preview.npz", *PROBE)
            for file in all_pretrainings(name)
        ],
    output:
        report=report(
            f"{HERE}/report/report.html",
            caption="../report/report.rst",
            category="Study",
        ),
        table=f"{HERE}/report/main_table.csv",
    log:
        f"{HERE}/logs/report.log",
    benchmark:
        f"{HERE}/benchmarks/report.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        recipe=leaves.recipe("report", leaves.compare(STUDY)),
        source=provenance.source_hash(
            ("detpretrain.report.report", "detpretrain.status")
        ),
        pretrained=(
            f"--pretrained {' '.join(all_pretrainings('assessment.json'))}"
            if STUDY.pretrainings
            else ""
        ),
    shell:
        'python "$SCRIPTS/report.py" --config "$STUDY" --recipe {params.recipe} --comparison {input.scores} '
        "--rows {input.rows} --logs {input.logs} {params.pretrained} --output {output.report} > {log} 2>&1"
