"""Find duplicates among the kept documents of all sources, and split off the held-out ones.

    fingerprints of the kept documents  ->  sorted keys on disk  ->  links  ->  groups of duplicates  ->  decisions

Documents that share a key are linked: the digest of the text, or a band of the MinHash signature (banding: Leskovec et
al., Mining of Massive Datasets, 3.4). A connected component of links is a group, of which one document is kept. What is
held out for evaluation is split off last, so that no duplicate of it is left to train on.
"""
