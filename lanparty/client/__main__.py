"""``python -m lanparty.client``."""

import sys

from lanparty.cli.run import main
from lanparty.client.app import amain
from lanparty.client.options import build_parser

if __name__ == "__main__":
    sys.exit(main(build_parser(), amain))
