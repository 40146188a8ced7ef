"""Ask what a source is now, byte for byte; nothing is changed, and no stage depends on it.

python -m stages.lock SOURCE  ->  the entry of SOURCE for sources.lock, as JSON on stdout
"""

import argparse
import json
from typing import Any

from stages.download.kinds import ask
from stages.download.params import download_params
from stages.locked import entry, known_source
from stages.process import run


def entry_of(source: str) -> dict[str, Any]:
    """What sources.lock should have of `source`.

    Raises:
        Refusal: if it can't be asked, or is not what params.yaml expects.
    """
    return entry(ask(download_params(source), source, known_source(source)))


def main() -> None:
    """Print the entry of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    print(json.dumps(entry_of(parser.parse_args().source), indent=2))


if __name__ == "__main__":
    run(main)
