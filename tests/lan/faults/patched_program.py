"""Starts one of the real programs with one thing changed in it: ``python patched_program.py PATCH MODULE OPTION…``.

What a test needs to force must not be an option of the programs.

    keys:N      keys are updated each N packets, and each update is told as an event ``test.key-update``
    reconnect   a session does not move with the network but is made anew: what the programs did before they could
    plain       nothing
"""

from __future__ import annotations

import json
import runpy
import sys


def short_keys(packets: int) -> None:
    from lanparty.quic import settings
    from lanparty.quic.internals.quic import Quic

    settings.KEY_PHASE = packets
    known = Quic._log_key_updated

    def told(self: Quic, key_type: str, trigger: str) -> None:
        known(self, key_type, trigger)
        if trigger != "tls" and key_type.endswith("client_1rtt_secret"):  # each update once, not per direction
            print(json.dumps({"event": "test.key-update", "message": f"keys updated: {trigger}"}), flush=True)

    Quic._log_key_updated = told


def reconnect() -> None:
    from lanparty.uplink.session import Session

    async def move(self: Session, _address: str, reason: str) -> None:
        self.end(reason, at_once=True)

    Session.move = move


if __name__ == "__main__":
    patch, module, *options = sys.argv[1:]
    name, _, value = patch.partition(":")
    if name == "keys":
        short_keys(int(value))
    elif name == "reconnect":
        reconnect()
    sys.argv = [module, *options]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
