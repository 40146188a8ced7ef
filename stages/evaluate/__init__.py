"""Measure the base model and its checkpoints on text that they never saw.

checkpoints, held-out documents  ->  metrics, plots, samples
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in stages/pretrain
