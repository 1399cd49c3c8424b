"""Statistics over the rows, then tables and figures. Cheap: these rerun when their own source changes."""

SECONDARY_TABLES = ["ranks", "mixed_model", "stability", "variance"]


rule compare:
    input:
        rows=all_rows("matches.parquet"),
        leakage=all_leakage(),
    output:
        scores=f"{TOGETHER}/comparison/scores.csv",
        folds=f"{TOGETHER}/comparison/folds.csv",
        metrics=f"{TOGETHER}/comparison/metrics.csv",
        differences=f"{TOGETHER}/comparison/differences.csv",
        pairs=f"{TOGETHER}/comparison/pairs.csv",
        claims=f"{TOGETHER}/comparison/claims.csv",
        secondary=expand(f"{TOGETHER}/comparison/{{table}}.csv", table=SECONDARY_TABLES),
    log:
        f"{TOGETHER}/logs/compare.log",
    benchmark:
        f"{TOGETHER}/benchmarks/compare.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        recipe=leaves.recipe("compare", leaves.compare(STUDY)),
        source=lambda wildcards: provenance.source_hash(
            ("detpretrain.comparison.compare",)
        ),
        only=ONLY_ARGUMENT,
    shell:
        'python "$SCRIPTS/compare.py" --config "$STUDY" {params.only} --recipe {params.recipe} --rows {input.rows} --leakage {input.leakage} '
        "--output {output.scores} > {log} 2>&1"


rule report:
    input:
        scores=f"{TOGETHER}/comparison/scores.csv",
        differences=f"{TOGETHER}/comparison/differences.csv",
        claims=f"{TOGETHER}/comparison/claims.csv",
        secondary=expand(f"{TOGETHER}/comparison/{{table}}.csv", table=SECONDARY_TABLES),
        rows=all_rows("matches.parquet"),
        metrics=all_rows("metrics.json"),
        logs=all_cells("log.csv"),
        cells=all_cells("metrics.json"),
        matches=all_cells("matches.parquet"),
        pretrained=[
            file
            for name in ("log.csv", "assessment.json", "preview.npz", *PROBE)
            for file in all_pretrainings(name)
        ],
    output:
        report=report(
            f"{TOGETHER}/report/report.html",
            caption="../report/report.rst",
            category="Study",
        ),
        table=report(
            f"{TOGETHER}/report/main_table.csv",
            caption="../report/table.rst",
            category="Study",
        ),
        figures=report(
            directory(f"{TOGETHER}/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{TOGETHER}/logs/report.log",
    benchmark:
        f"{TOGETHER}/benchmarks/report.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        recipe=leaves.recipe("report", leaves.compare(STUDY)),
        source=lambda wildcards: provenance.source_hash(("detpretrain.study_report",)),
        # marks of imported cells are no outputs of a rule
        imported=lambda wildcards: imported.marks(STUDY),
        page=files.digest(
            sorted(
                [
                    *ROOT.glob("workflow/report/*"),
                    *ROOT.glob("config/reference/*.csv"),
                ]
            )
        ),
        only=ONLY_ARGUMENT,
    shell:
        'python "$SCRIPTS/report.py" --config "$STUDY" {params.only} --recipe {params.recipe} --comparison {input.scores} '
        "--output {output.report} --processes {threads} > {log} 2>&1"
