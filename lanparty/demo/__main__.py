"""``python -m lanparty.demo``: the command line. Outside the sandbox it starts itself again inside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lanparty.cli.options import Parser
from lanparty.obs.errors import LanpartyError, MachineError


def main(argv: Sequence[str]) -> int:
    """The exit status: 0 only when everything worked, 5 when the kernel forbids the house."""
    try:
        return _run(_parser().parse_args(argv), argv)
    except LanpartyError as error:
        sys.stderr.write(f"lanparty.demo: error: {error}\n")
        return error.status


def _run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    if sys.platform == "linux":
        from lanparty.demo import sandbox

        if not sandbox.is_inside():
            return sandbox.run([sys.executable, "-m", "lanparty.demo", *argv])
        # Only now: pyroute2 takes its time to import.
        from lanparty.demo.app import DemoOptions, run
        from lanparty.demo.house import Underlay

        return run(
            DemoOptions(
                keep=options.keep,
                underlay=Underlay(options.underlay),
                own_dhcp_server=options.own_dhcp_server,
                log_level=options.log_level,
            )
        )
    else:
        raise MachineError("the virtual house is made of Linux network namespaces: run it on Linux")


def _parser() -> Parser:
    parser = Parser(
        prog="lanparty.demo",
        description="A LAN party on this computer: a house, a relay, a gateway and two remote players.",
        epilog="Needs Linux, no root and no system service. Takes well under a minute and leaves nothing behind.",
    )
    parser.add_argument("--keep", action="store_true", help="stay up afterwards; says how to open a shell as player 1")
    parser.add_argument(
        "--underlay",
        choices=["dual", "ipv6"],
        default="dual",
        help="what the internet in between speaks (default: %(default)s)",
    )
    parser.add_argument(
        "--own-dhcp-server", action="store_true", help="use the demo's own DHCP server even where dnsmasq is installed"
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning"], default="info", help="how much is shown")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
