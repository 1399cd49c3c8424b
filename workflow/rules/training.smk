"""Pre-training of each method and fine-tuning of each cell, then its raw predictions."""


rule fetch:
    output:
        "<results>/checkpoints/{init}.pth",
    log:
        "<results>/logs/fetch/{init}.log",
    benchmark:
        "<results>/benchmarks/fetch/{init}.tsv"
    priority: 30
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "fetch", leaves.fetch(STUDY, wildcards.init)
        ),
    shell:
        'python "$SCRIPTS/fetch.py" --config "$STUDY" --init {wildcards.init} --recipe {params.recipe} '
        "--output {output} > {log} 2>&1"


rule leakage:
    input:
        scored=f"{DATA}/{{dataset}}/task/cases.csv",
        corpora=lambda wildcards: (
            corpora_files(wildcards, "cases.csv")
            if STUDY.needs_pretraining(wildcards.init)
            else []
        ),
        checkpoint=lambda wildcards: (
            given_checkpoint(wildcards.init)
            if STUDY.checkpoint(wildcards.init)
            else []
        ),
        patients=lambda wildcards: STUDY.entry("inits", wildcards.init).get(
            "patients", []
        ),
    output:
        f"{HERE}/leakage/{{init}}/{{dataset}}.json",
    log:
        f"{HERE}/logs/leakage/{{init}}-{{dataset}}.log",
    benchmark:
        f"{HERE}/benchmarks/leakage/{{init}}-{{dataset}}.tsv"
    priority: 30
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "leakage", leaves.leakage(STUDY, wildcards.init, wildcards.dataset)
        ),
    shell:
        'python "$SCRIPTS/leakage.py" --config "$STUDY" --init {wildcards.init} --dataset {wildcards.dataset} '
        "--recipe {params.recipe} --scored {input.scored} --corpora {input.corpora} --checkpoint {input.checkpoint} "
        "--output {output} > {log} 2>&1"


rule pretrain:
    input:
        indices=corpora_indices,
        tasks=lambda wildcards: corpora_files(wildcards, "dataset.json"),
        splits=lambda wildcards: corpora_files(wildcards, "splits.json"),
    output:
        checkpoint=f"{HERE}/pretrained/{{init}}/{{backbone}}/checkpoint.pth",
        log=f"{HERE}/pretrained/{{init}}/{{backbone}}/log.csv",
        assessment=f"{HERE}/pretrained/{{init}}/{{backbone}}/assessment.json",
        preview=f"{HERE}/pretrained/{{init}}/{{backbone}}/preview.npz",
    log:
        f"{HERE}/logs/pretrain/{{init}}-{{backbone}}.log",
    benchmark:
        f"{HERE}/benchmarks/pretrain/{{init}}-{{backbone}}.tsv"
    priority: 10
    retries: retries(job_requests.pretrain_jobs(STUDY))
    conda:
        "../../envs/environment.yaml"
    threads: TRAINING_THREADS
    resources:
        **training_resources(),
        mem_mb=lambda wildcards: more_after_out_of_memory(
            pretrain_memory(wildcards.init),
            f"pretrained/{wildcards.init}/{wildcards.backbone}",
        ),
        runtime=lambda wildcards: pretrain_minutes(wildcards.init, wildcards.backbone),
    params:
        recipe=lambda wildcards: leaves.recipe(
            "pretrain", leaves.pretrain(STUDY, wildcards.init, wildcards.backbone)
        ),
    shell:
        'python "$SCRIPTS/pretrain.py" --config "$STUDY" --init {wildcards.init} --backbone {wildcards.backbone} '
        "--recipe {params.recipe} --indices {input.indices} --tasks {input.tasks} --job-minutes {resources.runtime} "
        "--checkpoint {output.checkpoint} --log {output.log} --assessment {output.assessment} "
        "--preview {output.preview} > {log} 2>&1"


rule probe_baseline:
    input:
        index=f"{DATA}/{PROBED}/{{plan}}/preprocessed/index.json",
        splits=f"{DATA}/{PROBED}/task/splits.json",
    output:
        f"{HERE}/probe_baselines/{{backbone}}-{{plan}}.json",
    log:
        f"{HERE}/logs/probe_baseline/{{backbone}}-{{plan}}.log",
    benchmark:
        f"{HERE}/benchmarks/probe_baseline/{{backbone}}-{{plan}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: max(
            pretrain_memory(init)
            for init, _ in STUDY.pretrainings
            if method_plan(init) == wildcards.plan
        ),
        runtime=240,
        gpu=min(GPUS, 1),
    params:
        recipe=lambda wildcards: leaves.recipe(
            "probe", leaves.probe(STUDY, wildcards.backbone)
        ),
    shell:
        'python "$SCRIPTS/probe.py" --config "$STUDY" --backbone {wildcards.backbone} --recipe {params.recipe} '
        "--index {input.index} --splits {input.splits} --output {output} --threads {threads} > {log} 2>&1"


rule probe:
    input:
        checkpoint=f"{HERE}/pretrained/{{init}}/{{backbone}}/checkpoint.pth",
        # of the same recipe; made again, it is no reason to probe again what is as it was
        baseline=lambda wildcards: ancient(
            f"{HERE}/probe_baselines/{wildcards.backbone}-{method_plan(wildcards.init)}.json"
        ),
        index=lambda wildcards: f"{DATA}/{PROBED}/{method_plan(wildcards.init)}/preprocessed/index.json",
        splits=f"{DATA}/{PROBED}/task/splits.json",
    output:
        f"{HERE}/pretrained/{{init}}/{{backbone}}/probe.json",
    log:
        f"{HERE}/logs/probe/{{init}}-{{backbone}}.log",
    benchmark:
        f"{HERE}/benchmarks/probe/{{init}}-{{backbone}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: pretrain_memory(wildcards.init),
        runtime=240,
        gpu=min(GPUS, 1),
    params:
        recipe=lambda wildcards: leaves.recipe(
            "probe", leaves.probe(STUDY, wildcards.backbone)
        ),
    shell:
        'python "$SCRIPTS/probe.py" --config "$STUDY" --backbone {wildcards.backbone} --recipe {params.recipe} '
        "--checkpoint {input.checkpoint} --baseline {input.baseline} --index {input.index} --splits {input.splits} "
        "--output {output} --threads {threads} > {log} 2>&1"


rule finetune:
    input:
        index=lambda wildcards: f"{detector_plan(wildcards)}/preprocessed/index.json",
        splits=f"{DATA}/{{dataset}}/task/splits.json",
        checkpoint=pretrained_checkpoint,
        # it must be there, but a check made again is no reason to train again
        leakage=lambda wildcards: (
            ancient(leakage_file(wildcards.init, wildcards.dataset))
            if is_pretrained(wildcards.init)
            else []
        ),
    output:
        model=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/model.pth",
        log=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/log.csv",
    log:
        f"{HERE}/logs/finetune/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{HERE}/benchmarks/finetune/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.tsv"
    priority: training_priority
    retries: retries(job_requests.finetune_jobs(STUDY))
    conda:
        "../../envs/environment.yaml"
    threads: TRAINING_THREADS
    resources:
        **training_resources(),
        mem_mb=lambda wildcards: more_after_out_of_memory(
            finetune_memory(wildcards.detector),
            f"{wildcards.dataset}/{wildcards.detector}/{wildcards.init}/fold{wildcards.fold}-seed{wildcards.seed}",
        ),
        runtime=lambda wildcards: finetune_minutes(wildcards.detector),
    params:
        recipe=lambda wildcards: leaves.recipe(
            "finetune",
            leaves.finetune(
                STUDY,
                wildcards.detector,
                wildcards.init,
                int(wildcards.fold),
                int(wildcards.seed),
            ),
        ),
    shell:
        'python "$SCRIPTS/finetune.py" --config "$STUDY" --dataset {wildcards.dataset} --detector {wildcards.detector} '
        "--init {wildcards.init} --fold {wildcards.fold} --seed {wildcards.seed} --recipe {params.recipe} "
        "--index {input.index} --splits {input.splits} --checkpoint {input.checkpoint} --job-minutes {resources.runtime} "
        "--model {output.model} --log {output.log} > {log} 2>&1"


rule predict:
    input:
        model=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/model.pth",
        index=lambda wildcards: f"{detector_plan(wildcards)}/preprocessed/index.json",
        splits=f"{DATA}/{{dataset}}/task/splits.json",
    output:
        f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/raw_boxes.parquet",
    log:
        f"{HERE}/logs/predict/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{HERE}/benchmarks/predict/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: prediction_memory(
            wildcards.dataset, wildcards.detector
        ),
        runtime=720,
        gpu=min(GPUS, 1),
    params:
        recipe=lambda wildcards: leaves.recipe(
            "predict", leaves.predict(STUDY, wildcards.detector)
        ),
    shell:
        'python "$SCRIPTS/predict.py" --config "$STUDY" --detector {wildcards.detector} --fold {wildcards.fold} '
        "--recipe {params.recipe} --model {input.model} --index {input.index} --splits {input.splits} --output {output} "
        "--threads {threads} > {log} 2>&1"
