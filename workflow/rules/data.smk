"""Raw volumes -> canonical task -> plan -> preprocessed arrays; shared by all studies."""


rule prepare:
    output:
        dataset=f"{DATA}/{{dataset}}/task/dataset.json",
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
        splits=f"{DATA}/{{dataset}}/task/splits.json",
    log:
        "<results>/logs/prepare/{dataset}.log",
    benchmark:
        "<results>/benchmarks/prepare/{dataset}.tsv"
    priority: 20
    conda:
        "../../envs/environment.yaml"
    threads: prepare_threads
    resources:
        mem_mb=lambda wildcards, threads: 4000 * (threads + 1),
        runtime=prepare_minutes,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "prepare", leaves.prepare(STUDY, wildcards.dataset)
        ),
    shell:
        'python "$SCRIPTS/prepare.py" --config "$STUDY" --dataset {wildcards.dataset} --recipe {params.recipe} '
        "--output {output.dataset} --threads {threads} > {log} 2>&1"


rule plan:
    input:
        dataset=f"{DATA}/{{dataset}}/task/dataset.json",
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
    output:
        f"{DATA}/{{dataset}}/{{plan}}/plan.json",
    log:
        "<results>/logs/plan/{dataset}-{plan}.log",
    benchmark:
        "<results>/benchmarks/plan/{dataset}-{plan}.tsv"
    priority: 20
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: preparation_memory(wildcards.dataset, 1),
        runtime=240,
    params:
        recipe=lambda wildcards: leaves.recipe(
            "plan", leaves.plan(STUDY, wildcards.plan)
        ),
    shell:
        'python "$SCRIPTS/plan.py" --config "$STUDY" --dataset {wildcards.dataset} --plan {wildcards.plan} '
        "--recipe {params.recipe} --task {input.dataset} --output {output} --threads {threads} > {log} 2>&1"


rule preprocess_shard:
    input:
        dataset=f"{DATA}/{{dataset}}/task/dataset.json",
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
        plan=f"{DATA}/{{dataset}}/{{plan}}/plan.json",
    output:
        f"{DATA}/{{dataset}}/{{plan}}/shards/{{shard}}-of-{{shards}}.json",
    log:
        "<results>/logs/preprocess/{dataset}-{plan}-{shard}-of-{shards}.log",
    benchmark:
        "<results>/benchmarks/preprocess/{dataset}-{plan}-{shard}-of-{shards}.tsv"
    priority: 20
    conda:
        "../../envs/environment.yaml"
    threads: PROCESSES
    resources:
        mem_mb=lambda wildcards: preparation_memory(wildcards.dataset, PROCESSES),
        runtime=720,
    params:
        recipe=leaves.recipe("preprocess", {}),
        preprocessed=lambda wildcards: (
            f"{DATA}/{wildcards.dataset}/{wildcards.plan}/preprocessed"
        ),
    shell:
        'python "$SCRIPTS/preprocess_shard.py" --recipe {params.recipe} --task {input.dataset} --plan {input.plan} '
        "--shard {wildcards.shard} --shards {wildcards.shards} --preprocessed {params.preprocessed} --output {output} "
        "--threads {threads} > {log} 2>&1"


rule preprocess:
    input:
        dataset=f"{DATA}/{{dataset}}/task/dataset.json",
        cases=f"{DATA}/{{dataset}}/task/cases.csv",
        plan=f"{DATA}/{{dataset}}/{{plan}}/plan.json",
        shards=preprocessed_shards,
    output:
        f"{DATA}/{{dataset}}/{{plan}}/preprocessed/index.json",
    log:
        "<results>/logs/preprocess/{dataset}-{plan}.log",
    benchmark:
        "<results>/benchmarks/preprocess/{dataset}-{plan}.tsv"
    priority: 20
    conda:
        "../../envs/environment.yaml"
    threads: PROCESSES
    resources:
        mem_mb=lambda wildcards: preparation_memory(wildcards.dataset, PROCESSES),
        runtime=720,
        gpu=preprocessing_gpus,
    params:
        recipe=leaves.recipe("preprocess", {}),
    shell:
        'python "$SCRIPTS/preprocess.py" --recipe {params.recipe} --task {input.dataset} --plan {input.plan} '
        "--shards {input.shards} --output {output} --threads {threads} > {log} 2>&1"
