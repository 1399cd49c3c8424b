"""Pre-training of each method and fine-tuning of each cell, then its raw predictions."""


rule pretrain:
    input:
        index=lambda wildcards: f"{corpus_plan(wildcards)}/preprocessed/index.json",
        splits=lambda wildcards: f"{corpus_folder(wildcards)}/task/splits.json",
    output:
        checkpoint=f"{HERE}/pretrained/{{init}}/{{backbone}}/checkpoint.pth",
        log=f"{HERE}/pretrained/{{init}}/{{backbone}}/log.csv",
    log:
        f"{HERE}/logs/pretrain/{{init}}-{{backbone}}.log",
    benchmark:
        f"{HERE}/benchmarks/pretrain/{{init}}-{{backbone}}.tsv"
    priority: 10
    retries: RETRIES
    conda:
        "../../envs/environment.yaml"
    threads: 1 + LOADERS
    resources:
        mem_mb=16000,
        runtime=7200,
        gpu=GPUS,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "pretrain", leaves.pretrain(STUDY, wildcards.init, wildcards.backbone)
        ),
        work=f"{HERE}/work/pretrained/{{init}}/{{backbone}}",
    shell:
        'python "$SCRIPTS/pretrain.py" --config "$STUDY" --init {wildcards.init} --backbone {wildcards.backbone} '
        "--recipe {params.recipe} --index {input.index} --splits {input.splits} --work {params.work} "
        "--checkpoint {output.checkpoint} --log {output.log} > {log} 2>&1"


rule finetune:
    input:
        index=lambda wildcards: f"{detector_plan(wildcards)}/preprocessed/index.json",
        splits="<results>/data/{dataset}/task/splits.json",
        checkpoint=pretrained_checkpoint,
    output:
        model=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/model.pth",
        log=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/log.csv",
    log:
        f"{HERE}/logs/finetune/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{HERE}/benchmarks/finetune/{{dataset}}-{{detector}}-{{init}}-fold{{fold}}-seed{{seed}}.tsv"
    retries: RETRIES
    conda:
        "../../envs/environment.yaml"
    threads: 1 + LOADERS
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=GPUS,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "finetune",
            leaves.finetune(
                STUDY, wildcards.detector, int(wildcards.fold), int(wildcards.seed)
            ),
        ),
        checkpoint=lambda wildcards, input: (
            f"--checkpoint {input.checkpoint}" if input.checkpoint else ""
        ),
        work=f"{HERE}/work/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}",
    shell:
        'python "$SCRIPTS/finetune.py" --config "$STUDY" --dataset {wildcards.dataset} --detector {wildcards.detector} '
        "--init {wildcards.init} --fold {wildcards.fold} --seed {wildcards.seed} --recipe {params.recipe} "
        "--index {input.index} --splits {input.splits} {params.checkpoint} --work {params.work} --model {output.model} "
        "--log {output.log} > {log} 2>&1"


rule predict:
    input:
        model=f"{HERE}/cells/{{dataset}}/{{detector}}/{{init}}/fold{{fold}}-seed{{seed}}/model.pth",
        index=lambda wildcards: f"{detector_plan(wildcards)}/preprocessed/index.json",
        splits="<results>/data/{dataset}/task/splits.json",
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
        mem_mb=16000,
        runtime=720,
        gpu=GPUS,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "predict", leaves.predict(STUDY, wildcards.detector)
        ),
    shell:
        'python "$SCRIPTS/predict.py" --config "$STUDY" --detector {wildcards.detector} --fold {wildcards.fold} '
        "--recipe {params.recipe} --model {input.model} --index {input.index} --splits {input.splits} --output {output} "
        "--threads {threads} > {log} 2>&1"
