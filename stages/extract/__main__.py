"""Extract documents from the files of a source, clean them, and measure what a rule can ask for.

    data/download/SOURCE  ->  data/extract/SOURCE: documents, signals, unreadable

Shards are groups of input files in order of name, by size alone. A record of which no document
can be made is a row of `unreadable`, so documents and unreadable are together what was read.
"""

import argparse
import functools
from pathlib import Path

from stages.documents import fresh_folder, write_manifest
from stages.extract.files import find_pieces, group
from stages.extract.params import ExtractParams
from stages.extract.shards import add_up, extract_shard
from stages.params import load_params
from stages.process import map_shards, run


def main() -> None:
    """Extract the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = load_params(ExtractParams, f"sources.{source}.extract")
    folder = Path("data/download") / source
    shards = list(enumerate(group(find_pieces(folder, params), params.shard_bytes)))
    target = fresh_folder(Path("data/extract") / source)
    work = functools.partial(extract_shard, source=source, params=params, folder=folder, target=target)
    write_manifest(target, add_up(map_shards(work, shards, f"extract {source}")))


if __name__ == "__main__":
    run(main)
