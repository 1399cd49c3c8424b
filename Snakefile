from snakemake.utils import min_version

min_version("9.0")


# The demo is the study of a bare `snakemake`; no key of it may reach another study.
if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/comparison.smk"


rule all:
    default_target: True
    input:
        targets(),
    localrule: True
