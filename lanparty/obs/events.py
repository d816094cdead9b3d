"""The one vocabulary of events of all programs.

Owns: each event's name (stable, for scripts), its sentence (for people) and its level.
Must not know: how an event is written (``log.py``) and who reports it.

A sentence is a ``str.format`` template over the fields that the event is logged with. Two additions:

* A part in square brackets is left out when one of its fields is missing, None or empty: ``"[, router {router}]"``.
* Fields come from strangers, too: control characters are escaped, so a sentence is always one line.

Names are ``subject.what-happened``. Where something is wrong, the sentence says what to do next. Fields are plain
values (str, int, float, bool, None): they become keys of the JSON line. The names event, time, level, program and
message are taken by the line itself.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from lanparty.obs.text import printable

__all__ = ["RESERVED_FIELDS", "Event"]

RESERVED_FIELDS: Final = frozenset({"event", "time", "level", "program", "message", "method_name"})
"""Names that no event's field may have: the log line or the logging library uses them."""

_OPTIONAL: Final = re.compile(r"\[([^\[\]]*)\]")


class _Formatter(string.Formatter):
    """``str.format`` that never fails for a missing field and never lets a stranger's text break the line."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "none"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return format(value, format_spec)
        return printable(str(value))


_FORMATTER: Final = _Formatter()


def _fields(template: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name)


@attrs.frozen
class Event:
    """One thing that can happen: a stable ``name``, a ``sentence`` for people, a stdlib logging ``level``."""

    name: str
    sentence: str
    level: int = logging.INFO

    def render(self, fields: Mapping[str, Any]) -> str:
        """The sentence with its fields filled in, on one line. A missing field reads "none"; nothing is raised."""

        def optional(found: re.Match[str]) -> str:
            part = found.group(1)
            return part if all(fields.get(name) not in (None, "") for name in _fields(part)) else ""

        return _FORMATTER.vformat(_OPTIONAL.sub(optional, self.sentence), (), fields)

    @property
    def required_fields(self) -> frozenset[str]:
        """The fields outside square brackets: whoever logs the event gives them."""
        return _fields(_OPTIONAL.sub("", self.sentence))


# --- every program -------------------------------------------------------------------------------------------------

FAILED = Event("error", "{text}", logging.ERROR)
"""The program ends because of this. Fields: text, status, code. Reported by ``lanparty.cli.run`` only."""
STOPPING = Event("program.stopping", "Stopping ({reason}). A second signal ends the program at once.")
"""Reported by ``lanparty.cli.run`` when the first signal comes."""
STOPPED = Event("program.stopped", "Stopped.")
"""Reported by ``lanparty.cli.run`` after everything was put back."""
LOG_FILE = Event("program.log-file", "This run of lanparty {version} ({system}) is logged to {file}.")
"""Reported by ``lanparty.cli.run``; says what whoever helps asks for first."""
REPAIRED = Event("program.repaired", "Put right what an earlier run left behind: {what}.")
LIBRARY = Event("library.message", "{library}: {text}")
"""A message of a library's own logger; the level is the library's."""
DIAGNOSIS = Event("program.diagnosis", "Something is not well: {text}.", logging.WARNING)
"""A sentence of ``lanparty.obs.diagnostics``."""
TASK_FAILED = Event("program.task-failed", "{what} failed and goes on: {text}", logging.WARNING)
STATS = Event(
    "program.stats",
    "{frames_in} frames ({bytes_in} bytes) in, {frames_out} frames ({bytes_out} bytes) out, {dropped} dropped.",
    logging.DEBUG,
)
"""A program's own tunnel counters, flattened into fields."""
FRAME = Event("frame", "{action} {source} > {destination} {ethertype} {length} bytes[, peer {peer}]")
"""One Ethernet frame. Only while the frame log is on."""

# --- relay ---------------------------------------------------------------------------------------------------------

RELAY_LISTENING = Event("relay.listening", "Listening on {address}, UDP port {port}.")
RELAY_CERTIFICATE_MADE = Event(
    "relay.certificate-made",
    "Made a development certificate[ for {names}] and wrote it to {file}[ because {reason}]. Give this file to "
    "gateways and players (--relay-ca-cert).",
)
RELAY_CERTIFICATE_KEPT = Event("relay.certificate-kept", "Using the development certificate in {file}.")
RELAY_MEMBER_JOINED = Event(
    "relay.member-joined", "Room {room}: {role}[ {name}] joined as peer {peer}[, MAC {mac}][, from {address}]."
)
RELAY_MEMBER_LEFT = Event("relay.member-left", "Room {room}: peer {peer} left[: {reason}].")
RELAY_REFUSED = Event("relay.refused", "Refused {address} ({code}): {text}", logging.WARNING)
RELAY_STATS = Event(
    "relay.stats",
    "{rooms} rooms, {members} members; {frames_in} frames in, {frames_out} out, {dropped} dropped.",
)
RELAY_MEMBER_STATS = Event("relay.member-stats", "Room {room}: counters of peer {peer}.", logging.DEBUG)
"""A member's own counters, as it sent them in ``stats``, flattened into fields."""
ROOM_OPENED = Event(
    "relay.room-opened", "Room {room} opened, MTU {mtu}[, fragments {fragments}][, password {password}]."
)
ROOM_CLOSED = Event("relay.room-closed", "Room {room} closed: nobody is left in it.")
FRAMES_BLOCKED = Event(
    "relay.frames-blocked",
    "Room {room}: blocked {count} frames from peer {peer} (rule: {rule}).",
    logging.WARNING,
)

# --- uplink: gateway and client ------------------------------------------------------------------------------------

UPLINK_RESOLVING = Event("uplink.resolving", "Looking up {name}.")
UPLINK_RESOLVED = Event("uplink.resolved", "{name} has the addresses {addresses}.", logging.DEBUG)
UPLINK_CONNECTING = Event("uplink.connecting", "Connecting to the relay at {address}, UDP port {port}.")
UPLINK_CONNECTED = Event("uplink.connected", "Connected to {address}, UDP port {port}; asking to enter the room.")
UPLINK_ATTEMPT_FAILED = Event("uplink.attempt-failed", "{address}, UDP port {port}: {reason}", logging.WARNING)
UPLINK_ADMITTED = Event("uplink.admitted", "Admitted as peer {peer} of room {room} at MTU {mtu}.")
UPLINK_LOST = Event(
    "uplink.lost", "The connection to the relay is gone: {reason}. Trying again in {delay:.1f} s.", logging.WARNING
)
UPLINK_NETWORK_CHANGED = Event("uplink.network-changed", "This computer's network changed ({reason}): reconnecting.")
UPLINK_MOVED = Event(
    "uplink.moved", "This computer's network changed ({reason}): the connection goes on from {address}."
)
GATEWAY_PRESENT = Event("room.gateway-present", "The house is there: its gateway is in the room.")
GATEWAY_MISSING = Event(
    "room.gateway-missing",
    "The house is not there: no gateway is in the room. Waiting for it; check room code and password with your host, "
    "who must run lanparty.gateway with the same.",
    logging.WARNING,
)
PEER_JOINED = Event("room.peer-joined", "{role}[ {name}] joined as peer {peer}[, MAC {mac}].")
PEER_LEFT = Event("room.peer-left", "Peer {peer} left[: {reason}].")

# --- gateway -------------------------------------------------------------------------------------------------------

GATEWAY_BRIDGING = Event(
    "gateway.bridging", "Bridging {interface} with room {room} as peer {peer}: players of the room are on this LAN now."
)
GATEWAY_LAN_DOWN = Event(
    "gateway.lan-down",
    "{interface} is down or gone. Check the cable and the interface; bridging goes on by itself when it is back.",
    logging.WARNING,
)
GATEWAY_LAN_UP = Event("gateway.lan-up", "{interface} is up.")

# --- client --------------------------------------------------------------------------------------------------------

CLIENT_IDENTITY = Event("client.identity", "This computer's virtual MAC is {mac} (identity file {file}).")
CLIENT_IDENTITY_CREATED = Event(
    "client.identity-created",
    "Made a new virtual MAC, {mac}, and saved it in {file}. Keep this file: the house knows this computer by it.",
)
CLIENT_TAP = Event("client.tap", "Network adapter {interface} is up: MAC {mac}, MTU {mtu}.")
CLIENT_JOINED = Event(
    "client.joined", "In room {room} as peer {peer}: adapter {interface}, MAC {mac}, MTU {mtu}. Frames flow."
)
CLIENT_DHCP_DISCOVER = Event("client.dhcp-discover", "DHCP: asking the house for an address on {interface}.")
CLIENT_DHCP_OFFER = Event("client.dhcp-offer", "DHCP: the house offers {address}[ (server {server})].")
CLIENT_DHCP_REQUEST = Event("client.dhcp-request", "DHCP: asking for {address}[ (server {server})].")
CLIENT_DHCP_LEASE = Event("client.dhcp-lease", "DHCP: {address} is leased[ for {lease_seconds} s][ by {server}].")
CLIENT_DHCP_RENEWED = Event("client.dhcp-renewed", "DHCP: the lease of {address} is renewed[ for {lease_seconds} s].")
CLIENT_DHCP_NAK = Event(
    "client.dhcp-nak", "DHCP: the house refused the address[ {address}]; asking for another.", logging.WARNING
)
CLIENT_DHCP_SILENT = Event(
    "client.dhcp-silent",
    "DHCP: no answer on {interface}[ for {seconds:.0f} s]. Check that the house has a DHCP server and that the gateway "
    "bridges the right interface, or give an address (--address ADDRESS/PREFIX). Asking on.",
    logging.WARNING,
)
CLIENT_DHCP_RELEASED = Event(
    "client.dhcp-released", "DHCP: this computer gives {address} up; the house is told so if the tunnel carries it."
)
CLIENT_ADDRESS = Event(
    "client.address",
    "{interface} has address {address}/{prefix}[, router {router}][, DHCP server {server}]"
    "[, lease of {lease_seconds} s]: this computer is on the house LAN.",
)
CLIENT_ADDRESS_LOST = Event(
    "client.address-lost", "{interface} lost its address[ {address}][: {reason}].", logging.WARNING
)
CLIENT_DEFAULT_ROUTE = Event("client.default-route", "All traffic of this computer now leaves by the house ({router}).")
CLIENT_DNS = Event("client.dns", "Names are now asked of the house's DNS servers ({servers}).")
CLIENT_RELAY_PINNED = Event("client.relay-pinned", "The relay {address} stays reachable by {interface}.", logging.DEBUG)

# --- appended by the builders of other parts: one marked section for each role --------------------------------------

# uplink
UPLINK_PASSWORD_READABLE = Event(
    "uplink.password-readable",
    "Others on this computer can read the room's password: run 'chmod 600 {file}'.",
    logging.WARNING,
)
UPLINK_WAITING = Event(
    "uplink.waiting", "Not in the room yet. {reason} Trying again in {delay:.1f} s.", logging.WARNING
)

# link
LINK_NO_TAP = Event("link.no-tap", "{reason}. Going on with a veth pair instead: {interface}.", logging.WARNING)
LINK_NO_OWN_STACK = Event(
    "link.no-own-stack",
    "Players cannot reach this machine itself by {interface}, only the rest of the house: {reason}",
    logging.WARNING,
)
LINK_NOT_USABLE = Event("link.not-usable", "{interface} cannot be used now: {reason}. Trying again.", logging.WARNING)

# link: the player's address (lanparty/link/address.py, dhcp.py, dns.py)
CLIENT_DHCP_IGNORED = Event("client.dhcp-ignored", "DHCP: ignored {what}.", logging.WARNING)
"""A reply that must not be believed, or could not be parsed; each complaint is reported once."""
CLIENT_SUBNET_CONFLICT = Event(
    "client.subnet-conflict",
    "The house uses {network}, and this computer's {interface} is in {other}: addresses in both are now looked for in "
    "the house. Leave that network, or ask one of the two to use another range.",
    logging.WARNING,
)
CLIENT_ROUTE_KEPT = Event(
    "client.route-kept",
    "{destination} goes by {other}, not by {interface}, because another program has set that route: games may not find "
    "the house. Remove it with 'ip route del {destination} dev {other}'.",
    logging.WARNING,
)
CLIENT_DEFAULT_ROUTE_REFUSED = Event(
    "client.default-route-refused", "The default route stays as it is: {reason}.", logging.WARNING
)
CLIENT_DNS_REFUSED = Event("client.dns-refused", "The DNS servers stay as they are: {reason}.", logging.WARNING)
CLIENT_DNS_RESTORED = Event("client.dns-restored", "The DNS servers are as they were before.")
CLIENT_NETWORK_PRIVATE = Event(
    "client.network-private", "Windows now takes {interface} for a private network: its firewall lets games in."
)
CLIENT_NETWORK_NOT_PRIVATE = Event(
    "client.network-not-private",
    "{interface} does not become a private network: {reason}. Windows' firewall may keep others from joining games of "
    "this computer. Choose 'Private network' in Settings, Network & internet, {interface}.",
    logging.WARNING,
)
CLIENT_DNS_SHARED = Event(
    "client.dns-shared",
    "The DNS servers of {interface} cannot be set: {reason}. Names may be asked of the house, too.",
    logging.WARNING,
)
CLIENT_IPV6_UNRESTRICTED = Event(
    "client.ipv6-unrestricted",
    "Cannot keep the house's IPv6 router from becoming this computer's: {reason}. IPv6 traffic may leave by the house.",
    logging.WARNING,
)

# gateway: loops and other gateways (lanparty/gateway/loop.py)
GATEWAY_LOOP = Event(
    "gateway.loop",
    "The house LAN has a loop: what this gateway sends by {interface} comes back again and again. No frames are "
    "carried until that ends. Look for a cable with both ends in the house's switches, for two cables between two "
    "switches, or for a second cable of this machine to the same switch, and pull it out.",
    logging.ERROR,
)
GATEWAY_ROOM_LOOP = Event(
    "gateway.room-loop",
    "A player's machine bridges its lanparty adapter into the LAN of {interface}: frames would go round for ever. No "
    "frames are carried until that ends. Take the adapter out of that bridge.",
    logging.ERROR,
)
GATEWAY_LOOP_CLEARED = Event(
    "gateway.loop-cleared", "The loop is gone. Frames flow again between {interface} and the room."
)
GATEWAY_OTHER = Event(
    "gateway.other-gateway",
    "Another lanparty gateway is on the LAN of {interface}: the players of both rooms are in one LAN. If that is not "
    "wanted, stop one of the two.",
    logging.WARNING,
)

# client
CLIENT_AT_HOME = Event(
    "client.at-home",
    "This computer is in the house: it hears the gateway by {interface}. The tunnel is paused and {tap} is down, so "
    "that the cable is used. It goes on by itself when the computer leaves.",
    logging.WARNING,
)
CLIENT_AWAY_AGAIN = Event(
    "client.away-again", "This computer has left the house, or {interface} has: the tunnel goes on, and {tap} is up."
)
CLIENT_VIRTUAL_MAC = Event("client.virtual-mac", "This computer's virtual MAC is {mac}, for this run only.")
CLIENT_IDENTITY_OLD = Event(
    "client.identity-old",
    "The identity file {file} has no key, and none can be written into it ({reason}): after a crash this computer may "
    "have to wait some seconds for its own place.",
    logging.WARNING,
)
CLIENT_MTU_CHANGED = Event(
    "client.mtu-changed",
    "The room is now run with MTU {mtu} instead of {before}: {interface} follows. Connections of running games may "
    "stall; start those anew.",
    logging.WARNING,
)

# process (lanparty/cli/privileges.py, service.py, relay/app.py)
PRIVILEGES = Event(
    "program.privileges", "Gave up all privileges[ but {kept}][; runs on as user {user}].", logging.DEBUG
)
RELOADED = Event(
    "program.reloaded", "Read certificate and configuration again[; {kept} stays as it was until a restart]."
)
RELOAD_REFUSED = Event(
    "program.reload-refused", "Nothing was changed, and everything goes on as before: {text}", logging.WARNING
)
RELAY_RUNS_AS_ROOT = Event(
    "relay.runs-as-root",
    "This relay has no capabilities any more, but is still the user root: better give it one of its own with --user "
    "NAME, or run it as a service (docs/operations.md).",
)
