"""Command line and configuration file, the same way for every program.

Owns: the common options, one-line errors, the types that several programs' options have.
Must not know: the roles' own options (each role adds its own to the parser it gets from ``program``).

Values come from three places; the first that has an option wins, for options that may be repeated too:

    1. the command line
    2. the TOML file of --config (``config.py``)
    3. the option's default
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NoReturn, TypeVar

import attrs

import lanparty
from lanparty.cli.config import config_values, convert_default
from lanparty.ctrl.room import RoomError, parse_room
from lanparty.obs.errors import UsageError
from lanparty.obs.log import LEVELS
from lanparty.obs.text import printable
from lanparty.proto.mac import MacAddress, MacError

__all__ = [
    "DEFAULT_PORT",
    "AddressChoice",
    "IntRange",
    "ListenAddress",
    "Parser",
    "RelayAddress",
    "Seconds",
    "connection_name",
    "interface_name",
    "mac_address",
    "parse",
    "parse_address",
    "parse_listen",
    "parse_relay",
    "program",
    "room_code",
    "virtual_mac",
]

DEFAULT_PORT: Final = 443
"""UDP port of a relay: HTTP/3's, which the most networks let out."""

_MAX_PORT: Final = 0xFFFF
_MAX_NAME: Final = 253  # characters of a DNS name in text (RFC 1035 section 2.3.4)
_MAX_CONNECTION_NAME: Final = 256
_MAX_INTERFACE_NAME: Final = 15  # bytes; Linux's IFNAMSIZ is 16 with the closing zero
_Result = TypeVar("_Result")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors of one line, and that takes no abbreviated options.

    Abbreviations would make every new option a change of what old command lines mean.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and exiting."""
        raise UsageError(f"{printable(message)} (see {self.prog} --help)")


def program(name: str, description: str) -> Parser:
    """A parser with the common options. ``name`` is as in ``lanparty.client``: messages and --version show it."""
    parser = Parser(prog=name, description=description)
    common = parser.add_argument_group("common options")
    common.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with any of these options; the command line wins"
    )
    common.add_argument(
        "--log-level", choices=list(LEVELS), default="info", help="what is worth a line (default: %(default)s)"
    )
    common.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="lines for people, or JSON lines for scripts; both on stderr (default: %(default)s)",
    )
    common.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        help="write the same lines to FILE, to be sent to whoever helps; gateway and client hide the room's code there",
    )
    common.add_argument(
        "--frame-log", action="store_true", help="a line for every Ethernet frame (at log level info or debug)"
    )
    common.add_argument("--version", action="version", version=f"{name} {lanparty.__version__}")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from ``argv`` (default: the process's), the configuration file, and defaults.

    Raises UsageError for anything wrong on the command line or in the file. --help and --version print and raise
    SystemExit(0), as argparse does.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    path = _config_path(parser, arguments)
    configured = {} if path is None else config_values(parser, path)
    actions = [action for action in parser._actions if action.default is not argparse.SUPPRESS]
    # A namespace full of marks, so that what the command line gave can be told from what it did not give. argparse
    # appends to what is there, so a repeatable option's mark is None: what it appends replaces the file's list.
    namespace = argparse.Namespace()
    for action in actions:
        setattr(namespace, action.dest, None if _is_repeatable(action) else _NOT_GIVEN)
    relieved = [action for action in actions if action.required and action.dest in configured]
    for action in relieved:
        action.required = False
    try:
        parser.parse_args(arguments, namespace)
    finally:
        for action in relieved:
            action.required = True
    for action in actions:
        given = getattr(namespace, action.dest)
        if given is _NOT_GIVEN or (given is None and _is_repeatable(action)):
            has = action.dest in configured
            setattr(namespace, action.dest, configured[action.dest] if has else convert_default(action))
    return namespace


_NOT_GIVEN: Final = object()


def _is_repeatable(action: argparse.Action) -> bool:
    return isinstance(action, (argparse._AppendAction, argparse._ExtendAction))


def _config_path(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Path | None:
    """The file that --config names. Looked up first, because the file may give what is required."""
    if not {"-h", "--help", "--version"}.isdisjoint(arguments):
        return None
    finder = Parser(prog=parser.prog, add_help=False)
    finder.add_argument("--config", type=Path)
    path: Path | None = finder.parse_known_args(list(arguments))[0].config
    return path


# --- types of options; each raises argparse.ArgumentTypeError with a sentence ---------------------------------------


@attrs.frozen
class IntRange:
    """A type for whole numbers from ``low`` to ``high``: ``type=IntRange(1, 128)``."""

    is_number: ClassVar[bool] = True
    """In a configuration file the option takes a number."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        """The number that ``text`` says in decimal digits."""
        if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) and self.low <= int(text) <= self.high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {self.low} to {self.high}")


@attrs.frozen
class Seconds:
    """A type for times from ``low`` to ``high`` seconds, fractions allowed: ``type=Seconds(0, 60)``."""

    is_number: ClassVar[bool] = True
    """In a configuration file the option takes a number."""

    low: float
    high: float

    def __call__(self, text: str) -> float:
        """The number that ``text`` says."""
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan  # which no comparison accepts
        if not self.low <= seconds <= self.high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {self.low:g} to {self.high:g}")
        return seconds


@attrs.frozen
class ListenAddress:
    """Where a relay listens: an IP address literal, and a UDP port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return _joined(self.host, self.port)


@attrs.frozen
class RelayAddress:
    """Where a relay is: a DNS name (ASCII) or an IP address literal without brackets, and a UDP port."""

    host: str
    port: int = DEFAULT_PORT

    @property
    def is_literal(self) -> bool:
        """Whether ``host`` is an IP address, so that nothing has to be looked up."""
        return _ip(self.host) is not None

    def __str__(self) -> str:
        return _joined(self.host, self.port)


AddressChoice = Literal["dhcp", "none"] | ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""What ``--address`` of the client takes."""


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _port(text: str, whole: str, low: int) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) and low <= int(text) <= _MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{whole!r}: the port must be a number from {low} to {_MAX_PORT}")


def _split(text: str) -> tuple[str, str | None, bool]:
    """Host, port text if there is one, and whether the host was in brackets."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or not isinstance(_ip(host), ipaddress.IPv6Address):
            raise argparse.ArgumentTypeError(f"{text!r}: an IPv6 address with a port is written [ADDRESS]:PORT")
        return host, rest[1:] if rest else None, True
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port, False
    return text, None, False


def parse_listen(text: str) -> list[ListenAddress]:
    """``PORT/udp`` (every IPv4 and IPv6 address), ``ADDRESS:PORT`` or ``[IPv6]:PORT``; port 0 is any free one."""
    ports, slash, protocol = text.partition("/")
    if slash and protocol != "udp":
        raise argparse.ArgumentTypeError(f"{text!r}: QUIC runs on UDP; write it like 443/udp")
    if ports.isdigit():
        if not slash:
            raise argparse.ArgumentTypeError(f"{text!r}: a port alone is written {ports}/udp")
        port = _port(ports, text, 0)
        return [ListenAddress("0.0.0.0", port), ListenAddress("::", port)]  # noqa: S104 - a relay is public
    host, port_text, bracketed = _split(ports)
    address = _ip(host)
    if port_text is None or address is None or (address.version == 6) != bracketed:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address to listen on: write PORT/udp, IPv4-ADDRESS:PORT or [IPv6-ADDRESS]:PORT"
        )
    return [ListenAddress(str(address), _port(port_text, text, 0))]


def parse_relay(text: str) -> RelayAddress:
    """A DNS name, an IPv4 or an IPv6 literal (bare or in brackets), with or without a port.

    An IPv6 literal needs brackets when a port follows. Names in other scripts become their ASCII form (RFC 3490).
    """
    address = _ip(text)
    if address is not None:
        return RelayAddress(str(address))
    host, port_text, _ = _split(text)
    port = DEFAULT_PORT if port_text is None else _port(port_text, text, 1)
    address = _ip(host)
    if address is not None:
        return RelayAddress(str(address), port)
    return RelayAddress(_name(host, text), port)


def _name(host: str, whole: str) -> str:
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    # The dot that ends an absolute name is not in certificates, nor in SNI (RFC 6066 section 3).
    name = name.removesuffix(".")
    labels = name.split(".")
    # A last label of digits only is a mistyped IPv4 address: no top-level domain is a number (RFC 3696 section 2).
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise argparse.ArgumentTypeError(
            f"{whole!r} is not the address of a relay: write NAME, NAME:PORT, an IPv4 address with or without :PORT, "
            "or an IPv6 address ([ADDRESS]:PORT with a port)"
        )
    return name


def mac_address(text: str) -> MacAddress:
    """A MAC address in one of the usual spellings."""
    return _sentence(MacAddress.parse, MacError, text)


def virtual_mac(text: str) -> MacAddress:
    """A MAC address that a client may use: unicast, locally administered, not zero."""
    return _sentence(lambda spelling: MacAddress.parse(spelling).require_virtual(), MacError, text)


def room_code(text: str) -> str:
    """A room code, in canonical form."""
    return _sentence(parse_room, RoomError, text)


def _sentence(parser: Callable[[str], _Result], error: type[ValueError], text: str) -> _Result:
    try:
        return parser(text)
    except error as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def parse_address(text: str) -> AddressChoice:
    """``dhcp``, ``none``, or a static ``ADDRESS/PREFIX`` that a host can have."""
    if text == "dhcp":
        return "dhcp"
    if text == "none":
        return "none"
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text or not text.rpartition("/")[2].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: write dhcp, none or ADDRESS/PREFIX, such as 192.168.1.50/24")
    network = interface.network
    address = interface.ip
    ends = network.prefixlen < network.max_prefixlen - 1 and address.version == 4
    if (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or network.prefixlen == 0
        or (ends and address in (network.network_address, network.broadcast_address))
    ):
        raise argparse.ArgumentTypeError(f"{text!r}: no computer can have this address in this network")
    return interface


def connection_name(text: str) -> str:
    """A name that a network connection of Windows can have: what its list of connections shows, ``Ethernet 2``."""
    # As its control panel takes them; 256 characters are NDIS_IF_MAX_STRING_SIZE (ifdef.h).
    if not 0 < len(text) <= _MAX_CONNECTION_NAME or re.search(r'[\\/:*?"<>|]', text) or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a network connection: 1 to {_MAX_CONNECTION_NAME} characters without "
            '\\ / : * ? " < > |'
        )
    return text


def interface_name(text: str) -> str:
    """A name that a Linux network interface can have."""
    # As the kernel's dev_valid_name(): 1 to 15 bytes, not . or .., no slash, no colon, no white space.
    lawful = 0 < len(text.encode("utf-8", "surrogatepass")) <= _MAX_INTERFACE_NAME and text not in (".", "..")
    if not lawful or re.search(r"[/:\s]", text) or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of an interface: 1 to {_MAX_INTERFACE_NAME} characters without space, / and :"
        )
    return text
