"""The kinds of pre-training that the study's claims speak of: ``kind`` of an entry of config/inits.yaml."""

KINDS = ("reconstruction", "contrastive", "supervised")
