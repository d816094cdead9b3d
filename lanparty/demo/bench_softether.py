"""SoftEther as a peer: vpnserver as relay, vpnbridge cascading from the gateway, vpnclient at the player.

Two ways: as it is, which moves its data to UDP after some seconds; and where the relay's firewall lets no UDP in, which
keeps it on TLS over TCP, its fastest way here.

Owns: its configuration, done by its own vpncmd. Must not know: what is measured.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import re
import subprocess
import time
from typing import ClassVar, Final

from lanparty.demo.bench_systems import Carrier, System, find
from lanparty.obs.errors import LanpartyError

__all__ = ["SoftEther", "SoftEtherTcp"]

_DAEMON: Final = "/usr/libexec/softether/{0}/{0}"
_READY_TIMEOUT: Final = 15.0
"""Seconds until a service must answer vpncmd."""
_UDP_TIMEOUT: Final = 30.0
"""Seconds until UDP acceleration must be on; measured here: about 11."""

_SECRET: Final = "bench"  # noqa: S105 - everything ends with the sandbox
_HUB: Final = "ROOM1"


class SoftEther(System):
    """With UDP acceleration."""

    name = "softether"
    cipher = "TLS 1.3 AES-256-GCM over TCP 443, then UDP acceleration"
    tools: ClassVar = {
        _DAEMON.format("vpnserver"): "softether-vpnserver",
        _DAEMON.format("vpnbridge"): "softether-vpnbridge",
        _DAEMON.format("vpnclient"): "softether-vpnclient",
        "vpncmd": "softether-vpncmd",
    }
    interface = "vpn_se"

    def start_house(self) -> None:
        """As ``System``; the bridge reads the gateway's card itself."""
        self._service("relay", "relay", "vpnserver")
        self._server("relay", "HubCreate", _HUB, f"/PASSWORD:{_SECRET}")
        for user in ("gateway", "player1"):
            self._server("relay", "UserCreate", user, "/GROUP:none", "/REALNAME:none", "/NOTE:none", hub=_HUB)
            self._server("relay", "UserPasswordSet", user, f"/PASSWORD:{_SECRET}", hub=_HUB)
        self._service("gateway", "gateway", "vpnbridge")
        at = f"/SERVER:{self.lab.wan_address('relay')}:443"
        self._server("gateway", "CascadeCreate", "c", at, f"/HUB:{_HUB}", "/USERNAME:gateway", hub="BRIDGE")
        self._server("gateway", "CascadePasswordSet", "c", f"/PASSWORD:{_SECRET}", "/TYPE:standard", hub="BRIDGE")
        self._server("gateway", "CascadeOnline", "c", hub="BRIDGE")
        self._server("gateway", "BridgeCreate", "BRIDGE", "/DEVICE:eth0", "/TAP:no")

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self._service(player, player, "vpnclient")
        self._client("NicCreate", "se")
        at = f"/SERVER:{self.lab.wan_address('relay')}:443"
        self._client("AccountCreate", "a", at, f"/HUB:{_HUB}", "/USERNAME:player1", "/NICNAME:se")
        self._client("AccountPasswordSet", "a", f"/PASSWORD:{_SECRET}", "/TYPE:standard")
        self._client("AccountConnect", "a")

    def join(self, player: str) -> None:
        """As ``System``; waits until UDP acceleration is on; the gateway's began earlier."""
        super().join(player)
        deadline = time.monotonic() + _UDP_TIMEOUT
        while self.facts().get("UDP Acceleration is Active") != "Yes":
            if time.monotonic() > deadline:
                raise LanpartyError("softether: UDP acceleration never came on")
            time.sleep(1.0)

    def facts(self) -> dict[str, str]:
        """What the client says of its connection."""
        found = {}
        for line in self._client("AccountStatusGet", "a").splitlines():
            name, bar, value = (part.strip() for part in line.partition("|"))
            if bar and re.search("Encr|UDP|Cipher|Physical", name):
                found[name] = value
        return found

    def _service(self, role: str, place: str, kind: str) -> None:
        # It keeps its state in fixed places: each gets empty ones of its own, which end with it. inside.command gives
        # every program its own view of the mounts.
        places = "/var/lib /var/log /run"
        script = f"for at in {places}; do mount -t tmpfs tmpfs $at && mkdir -p $at/softether || exit 1; done; exec "
        self.launch(role, place, ["/bin/sh", "-c", script + _DAEMON.format(kind) + " execsvc"])

    def _server(self, place: str, *words: str, hub: str | None = None) -> str:
        target = ["localhost:5555", "/SERVER", *([] if hub is None else [f"/ADMINHUB:{hub}"])]
        return self._command(place, *target, "/CMD", *words)

    def _client(self, *words: str) -> str:
        return self._command("player1", "localhost", "/CLIENT", "/CMD", *words)

    def _command(self, place: str, *words: str) -> str:
        """What vpncmd prints; asks again while the service does not answer yet."""
        vpncmd = find("vpncmd")
        if vpncmd is None:
            raise LanpartyError("vpncmd is not installed")
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            try:
                return self.lab.run(place, vpncmd, *words, timeout=20)
            except (LanpartyError, subprocess.TimeoutExpired) as error:
                # Status 1: cannot connect; 2: the protocol broke off, as when the service has just begun to listen.
                starting = isinstance(error, subprocess.TimeoutExpired) or re.search(r"status [12]:", str(error))
                if not starting or time.monotonic() > deadline:
                    raise
            time.sleep(0.25)


class SoftEtherTcp(SoftEther):
    """Without UDP."""

    name = "softether-tcp"
    cipher = "TLS 1.3 AES-256-GCM over TCP 443 (UDP blocked at the relay)"
    carrier = Carrier.STREAM

    def start_house(self) -> None:
        """As ``System``."""
        self.lab.block_udp("relay")
        super().start_house()

    def join(self, player: str) -> None:
        """As ``System``; there is nothing to wait for."""
        System.join(self, player)
