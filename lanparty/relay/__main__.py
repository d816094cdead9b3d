"""``python -m lanparty.relay``."""

from __future__ import annotations

import sys

from lanparty.cli.run import main
from lanparty.relay.app import amain
from lanparty.relay.options import build_parser

if __name__ == "__main__":
    sys.exit(main(build_parser(), amain, reloads=True))
