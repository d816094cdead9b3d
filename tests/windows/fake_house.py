"""A house in memory: one host that is router and DHCP server, answers ARP, and echoes UDP. Sans-I/O."""

from ipaddress import IPv4Address, IPv4Interface

import attrs
from fake_packets import BROADCAST, arp_answer, udp, udp_of

from lanparty.demo.dhcpserver import LeaseBook

MAC = bytes.fromhex("525400770001")
ADDRESS = IPv4Interface("192.168.77.1/24")
ECHO_PORT = 7


def lease_book(seconds=3600, mask=None):
    server = ADDRESS if mask is None else IPv4Interface(f"{ADDRESS.ip}/{mask}")
    return LeaseBook(server, IPv4Address("192.168.77.100"), IPv4Address("192.168.77.199"), seconds)


@attrs.define
class House:
    """``heard`` is all that came in, in order; ``silent`` answers nothing, as a house whose server is off."""

    book: LeaseBook = attrs.field(factory=lease_book)
    heard: list[bytes] = attrs.field(factory=list)
    silent: bool = False
    more: bytes = b""
    """Options that its DHCP answers have besides."""

    def answer(self, frame, now):
        """Take a frame from the wire; give the frames of the answer."""
        self.heard.append(frame)
        if self.silent or (frame[0:6] != MAC and not frame[0] & 1):
            return []
        resolved = arp_answer(frame, MAC, str(ADDRESS.ip))
        if resolved is not None:
            return [resolved]
        found = udp_of(frame)
        if found is None:
            return []
        source, destination, payload = found
        if destination[1] == 67:
            reply = self.book.answer_untrusted(payload, now)
            if reply is not None and self.more:
                reply = reply.rstrip(b"\0")[:-1] + self.more + b"\xff"
            to = (BROADCAST, ("255.255.255.255", 68))
            return [] if reply is None else [udp(to[0], MAC, (str(ADDRESS.ip), 67), to[1], reply, ttl=64)]
        if destination == (str(ADDRESS.ip), ECHO_PORT):
            return [udp(frame[6:12], MAC, destination, source, payload, ttl=64)]
        return []

    def leased(self):
        """MAC by address of all leases that run."""
        return {str(address): binding.mac for address, binding in self.book.bindings.items() if binding.leased}
