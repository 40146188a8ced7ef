"""Measure the base model and its checkpoints on text that they never saw.

checkpoints, held-out documents  ->  metrics, plots, samples
"""
