"""``python -m lanparty.gateway``."""

import argparse
import sys

import trio

from lanparty.cli.run import main
from lanparty.cli.service import Service
from lanparty.gateway.options import build_parser
from lanparty.obs.errors import MachineError


async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None:
    """Run the gateway, where there can be one. Raises MachineError."""
    if sys.platform == "linux":
        from lanparty.gateway import app

        await app.amain(options, stop, service)
    else:
        raise MachineError("the gateway works with a Linux kernel's packet sockets: run it on Linux")


if __name__ == "__main__":
    sys.exit(main(build_parser(), amain))
