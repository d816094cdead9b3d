"""Other systems of the kind, as their packages in Debian 12 come: OpenVPN, tinc, fastd, n2n, quicktun.

Each is set up to do lanparty's work: whole Ethernet frames, encrypted with what it recommends or its fastest that is
not weaker, by way of a third machine on the internet. What differs from a default is said where it is done.

Owns: their configurations. Must not know: what is measured.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import re
import time
from pathlib import Path
from typing import ClassVar

from lanparty.demo.bench_lab import PATH, PLAYER_ADDRESSES
from lanparty.demo.bench_systems import System, find, last_match
from lanparty.obs.errors import LanpartyError

__all__ = ["Fastd", "N2n", "OpenVpn", "QuickTun", "Tinc"]

Argument = str | os.PathLike[str]


def _tool(name: str) -> str:
    found = find(name)
    if found is None:
        raise LanpartyError(f"{name} is not installed")
    return found


class _Peer(System):
    """A system that needs a bridge at the gateway and TAPs that are there before it starts."""

    mtu: ClassVar[int] = 1500

    def taps(self) -> None:
        """Make the gateway's TAP in a bridge with its card, and the player's."""
        self.lab.bridge_gateway()
        self.lab.add_tap("gateway", self.interface, mtu=self.mtu, bridge="br0")
        self.lab.add_tap("player1", self.interface, mtu=self.mtu)

    def write(self, name: str, text: str) -> Path:
        """Write a configuration file, for its owner only."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return path


class OpenVpn(_Peer):
    """The server as relay with --client-to-client; data channel offload does not do TAP."""

    name = "openvpn"
    cipher = "TLS 1.3 control, AES-256-GCM data, UDP"
    tools: ClassVar = {"openvpn": "openvpn", "openssl": "openssl"}

    def start_house(self) -> None:
        """As ``System``."""
        self._make_certificates()
        self.taps()
        # The server's own TAP must be up, or its writes fail and delay the rest.
        self.lab.add_tap("relay", self.interface)
        server = ["--mode", "server", "--tls-server", "--dh", "none", "--proto", "udp4", "--port", "1194"]
        server += ["--local", self.lab.wan_address("relay"), "--client-to-client", "--keepalive", "10", "60"]
        self.launch("relay", "relay", [*self._common("relay"), *server])
        self.launch("gateway", "gateway", [*self._common("gateway"), *self._client()])

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self.launch(player, player, [*self._common(player), *self._client()])

    def facts(self) -> dict[str, str]:
        """The ciphers of the player's connection."""
        lines = self.started["player1"][0].lines
        return {"data": last_match("Data Channel: (.*)", lines), "control": last_match("Control Channel: (.*)", lines)}

    def _client(self) -> list[str]:
        return ["--client", "--proto", "udp4", "--remote", self.lab.wan_address("relay"), "1194", "--nobind"]

    def _common(self, who: str) -> list[Argument]:
        at = self.directory
        keys: list[Argument] = ["--ca", at / "ca.crt", "--cert", at / f"{who}.crt", "--key", at / f"{who}.key"]
        device = ["--dev", self.interface, "--dev-type", "tap", "--data-ciphers", "AES-256-GCM", "--verb", "3"]
        return [_tool("openvpn"), *device, *keys]

    def _make_certificates(self) -> None:
        at = self.directory
        new_key: list[Argument] = [_tool("openssl"), "req", "-newkey", "ec", "-nodes"]
        new_key += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
        self.lab.run("relay", *new_key, "-x509", "-keyout", at / "ca.key", "-out", at / "ca.crt", "-subj", "/CN=ca")
        for who in ("relay", "gateway", "player1"):
            files: list[Argument] = ["-keyout", at / f"{who}.key", "-out", at / f"{who}.csr"]
            self.lab.run("relay", *new_key, *files, "-subj", f"/CN={who}")
            signed: list[Argument] = ["-in", at / f"{who}.csr", "-out", at / f"{who}.crt"]
            signer: list[Argument] = ["-CA", at / "ca.crt", "-CAkey", at / "ca.key", "-CAcreateserial"]
            self.lab.run("relay", _tool("openssl"), "x509", "-req", *signed, *signer)


class Tinc(_Peer):
    """A node without a device as relay; IndirectData keeps the others from looking for a direct way."""

    name = "tinc"
    cipher = "AES-256-CBC + HMAC-SHA256 (4 bytes), UDP"
    tools: ClassVar = {"tincd": "tinc", "openssl": "openssl"}

    def start_house(self) -> None:
        """As ``System``."""
        nodes = ("relay", "gateway", "player1")
        hosts = {}
        for node in nodes:
            private = self.write(f"{node}/rsa_key.priv", "")
            public = self.directory / node / "public"
            self.lab.run("relay", _tool("openssl"), "genrsa", "-traditional", "-out", private, "2048")
            self.lab.run("relay", _tool("openssl"), "rsa", "-in", private, "-RSAPublicKey_out", "-out", public)
            host = "Cipher = aes-256-cbc\nDigest = sha256\nMACLength = 4\nCompression = 0\n"
            host += f"Address = {self.lab.wan_address('relay')}\n" if node == "relay" else "IndirectData = yes\n"
            hosts[node] = host + public.read_text(encoding="ascii")
        for node in nodes:
            text = f"Name = {node}\nMode = switch\nAddressFamily = ipv4\nLocalDiscovery = no\nPingInterval = 30\n"
            if node == "relay":
                text += "DeviceType = dummy\n"
            else:
                text += f"DeviceType = tap\nDevice = /dev/net/tun\nInterface = {self.interface}\nConnectTo = relay\n"
            self.write(f"{node}/tinc.conf", text)
            for other, host in hosts.items():
                self.write(f"{node}/hosts/{other}", host)
        self.taps()
        self._start("relay")
        time.sleep(0.3)  # Whoever does not find the relay tries again only after 5 s.
        self._start("gateway")

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self._start(player)

    def _start(self, node: str) -> None:
        where: list[Argument] = ["-c", self.directory / node, f"--pidfile={self.directory / node}.pid"]
        self.launch(node, node, [_tool("tincd"), "-D", "-d2", *where])


class Fastd(_Peer):
    """Its fastest method that authenticates; "forward yes" makes the relay a switch."""

    name = "fastd"
    cipher = "ec25519-fhmqvc, salsa2012+umac, UDP"
    tools: ClassVar = {"fastd": "fastd"}
    mtu = 1426

    def start_house(self) -> None:
        """As ``System``."""
        fastd, nodes = _tool("fastd"), ("relay", "gateway", "player1")
        # Its messages go to standard error; the key alone to standard output.
        secret = {node: self.lab.run("relay", fastd, "--generate-key", "--machine-readable").strip() for node in nodes}
        public = {}
        for node in nodes:
            key = self.write(f"{node}.key", f'secret "{secret[node]}";\n')
            shown = self.lab.run("relay", fastd, "--config", key, "--show-key", "--machine-readable")
            public[node] = shown.strip()
        at = f"{self.lab.wan_address('relay')}:10000"
        for node in nodes:
            text = f'log level info;\nmode tap;\ninterface "{self.interface}";\nmtu {self.mtu};\n'
            text += f'method "salsa2012+umac";\nsecret "{secret[node]}";\n'
            if node == "relay":
                text += f"bind {at};\nforward yes;\n"
                text += "".join(f'peer "{one}" {{ key "{public[one]}"; }}\n' for one in nodes if one != "relay")
            else:
                text += f'peer "relay" {{ key "{public["relay"]}"; remote {at}; }}\n'
            self.write(f"{node}.conf", text)
        self.taps()
        self.lab.add_tap("relay", self.interface, mtu=self.mtu)
        self._start("relay")
        time.sleep(0.2)  # Whoever does not find the relay tries again only after some seconds.
        self._start("gateway")

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self._start(player)

    def _start(self, node: str) -> None:
        self.launch(node, node, [_tool("fastd"), "-c", self.directory / f"{node}.conf"])


class N2n(_Peer):
    """Version 1, as Debian has it: the supernode only copies packets; it cannot be told to stay off the direct path,
    which is cut instead (``Lab.cut_direct``)."""

    name = "n2n"
    cipher = "Twofish (n2n v1), UDP; supernode only copies"
    tools: ClassVar = {"edge": "n2n", "supernode": "n2n"}
    mtu = 1400

    def start_house(self) -> None:
        """As ``System``."""
        self.launch("relay", "relay", [_tool("supernode"), "-l", "7654"])
        self.taps()
        self._edge("gateway", "192.168.77.3", "02:4c:50:00:00:03")

    def start_player(self, player: str) -> None:
        """As ``System``; n2n gives the interface its address itself."""
        self._edge(player, PLAYER_ADDRESSES[player], "02:4c:50:00:00:51")

    def _edge(self, place: str, address: str, mac: str) -> None:
        network = ["-a", address, "-s", "255.255.255.0", "-m", mac, "-M", str(self.mtu), "-r"]
        room = ["-c", "ROOM1", "-k", "bench-secret", "-l", f"{self.lab.wan_address('relay')}:7654"]
        self.launch(place, place, [_tool("edge"), "-d", self.interface, *room, *network])


class QuickTun(_Peer):
    """Point to point only: at the relay two tunnels end in a bridge of the kernel."""

    name = "quicktun"
    cipher = "nacltai (curve25519, xsalsa20-poly1305), UDP"
    tools: ClassVar = {"quicktun": "quicktun", "/usr/sbin/keypair": "quicktun"}
    mtu = 1400

    def start_house(self) -> None:
        """As ``System``."""
        self._keys = {end: self._keypair() for end in ("player1", "relay1", "relay2", "gateway")}
        self.taps()
        self.lab.do("relay", "ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
        self.lab.do("relay", "ip link set br0 up")
        for name in ("tap1", "tap2"):
            self.lab.add_tap("relay", name, mtu=self.mtu, bridge="br0")
        self._end("relay", "tap1", "relay1", "player1", 2998, "player1")
        self._end("relay", "tap2", "relay2", "gateway", 2999, "gateway")
        self._end("gateway", self.interface, "gateway", "relay2", 2999, "relay")

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self._end(player, self.interface, "player1", "relay1", 2998, "relay")

    def _keypair(self) -> tuple[str, str]:
        text = self.lab.run("relay", "/usr/sbin/keypair", stdin="")
        found = re.search(r"SECRET: *([0-9a-fA-F]+).*PUBLIC: *([0-9a-fA-F]+)", text, re.DOTALL)
        if found is None:
            raise LanpartyError("quicktun's keypair printed no keys")
        return found[1], found[2]

    def _end(self, place: str, interface: str, mine: str, theirs: str, port: int, other: str) -> None:
        # Debian's build reads only variables with ifupdown's prefix IF_QT_; without them it runs, silently, with no
        # encryption at all.
        settings: dict[str, str] = {
            "PROTOCOL": "nacltai",
            "INTERFACE": interface,
            "TUN_MODE": "0",
            "PRIVATE_KEY": self._keys[mine][0],
            "PUBLIC_KEY": self._keys[theirs][1],
            "LOCAL_ADDRESS": self.lab.wan_address(place),
            "LOCAL_PORT": str(port),
            "REMOTE_ADDRESS": self.lab.wan_address(other),
            "REMOTE_PORT": str(port),
        }
        environment = {f"IF_QT_{name}": value for name, value in settings.items()} | {"IFACE": interface, "PATH": PATH}
        self.launch(place, place, [_tool("quicktun")], environment)
