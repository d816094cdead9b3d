"""``python -m lanparty.gateway``."""

import sys

from lanparty.cli.run import main
from lanparty.gateway.app import amain
from lanparty.gateway.options import build_parser

if __name__ == "__main__":
    sys.exit(main(build_parser(), amain))
