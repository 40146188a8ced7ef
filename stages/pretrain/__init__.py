"""Train the base model on the token shards.

    token shards, tokenizer  ->  base model, published checkpoints, loss curve

`python -m stages.pretrain`; with PEDIGREE_LAUNCH it becomes `accelerate launch … -m stages.pretrain`.
"""

import os

# Before torch loads: threads that wait without spinning cost nothing on an idle machine, and half the
# processor time where something else runs beside.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
