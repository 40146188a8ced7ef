"""Train the base model on the token shards.

    token shards, tokenizer  ->  base model, published checkpoints, loss curve

`python -m stages.pretrain`; with PEDIGREE_LAUNCH it becomes `accelerate launch … -m stages.pretrain`.
"""
