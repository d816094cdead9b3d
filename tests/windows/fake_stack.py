"""What Windows does with the wire of one adapter: its DHCP client, ARP, and programs that use its address. Sans-I/O."""

import attrs
from fake_dhcp import WindowsDhcp
from fake_packets import arp, arp_answer, packed

PROBES = 3
"""DadTransmits of an IPv4 interface; a second between two (Microsoft, MIB_IPINTERFACE_ROW)."""


@attrs.define
class WindowsStack:
    """The stack of one adapter. ``sent`` are frames for the wire; whoever owns this takes them."""

    mac: bytes
    dhcp_enabled: bool = True
    connected: bool = False
    fixed: dict[str, int] = attrs.field(factory=dict)
    """Addresses that were put on: prefix by address."""
    taken: set[str] = attrs.field(factory=set)
    """Of those: which somebody else turned out to have."""
    heard: list[bytes] = attrs.field(factory=list)
    sent: list[bytes] = attrs.field(factory=list)
    checks_leases: bool = False
    """Whether it is asked of leases, too, who else has them. Windows does; it takes 3 s, which most tests spare."""
    checked: dict[str, tuple[int, float]] = attrs.field(factory=dict)
    """Fixed addresses that somebody else may have: probes that are left, and when the next one is due."""
    dhcp: WindowsDhcp = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.dhcp = WindowsDhcp(self.mac)

    @property
    def wake_at(self):
        return min([self.dhcp.wake_at, *(due for _, due in self.checked.values())])

    def restart(self, mac, dhcp_enabled):
        """The adapter was stopped and started: all that was on it is gone."""
        self.mac, self.dhcp_enabled, self.connected = mac, dhcp_enabled, False
        self.fixed.clear()
        self.taken.clear()
        self.checked.clear()
        asked = self.dhcp.asked
        self.dhcp = WindowsDhcp(mac)
        self.dhcp.asked = asked

    def media(self, connected, now):
        if connected == self.connected:
            return
        self.connected = connected
        if self.dhcp_enabled:
            self.dhcp.media(connected, now)
        self.checked = dict.fromkeys(self.fixed, (PROBES, now)) if connected else {}
        self._flush()

    def put_on(self, address, prefix, now):
        """A fixed address; whether somebody else has it is asked as soon as the cable is in (RFC 5227)."""
        self.fixed[address] = prefix
        if self.connected:
            self.checked[address] = (PROBES, now)

    def receive(self, frame, now):
        """Take a frame from the wire."""
        self.heard.append(frame)
        if not self.connected:
            return
        addresses = [*self.fixed, *([self.dhcp.bound.address] if self.dhcp.bound else [])]
        for address in addresses:
            answer = arp_answer(frame, self.mac, address)
            if answer is not None and frame[6:12] != self.mac:
                self.sent.append(answer)
            if address in self.checked and frame[12:14] == b"\x08\x06" and frame[28:32] == packed(address):
                self.taken.add(address)
        if self.dhcp_enabled:
            before = self.dhcp.bound
            self.dhcp.receive(frame, now)
            if self.checks_leases and before is None and self.dhcp.bound is not None:
                self.checked[self.dhcp.bound.address] = (PROBES, now)
        self._flush()

    def take_off(self, address):
        """Whether it was there."""
        self.checked.pop(address, None)
        return self.fixed.pop(address, None) is not None

    def tick(self, now):
        self.dhcp.tick(now)
        for address, (left, due) in list(self.checked.items()):
            if due > now:
                continue
            if left and address not in self.taken:
                self.sent.append(arp(1, (self.mac, "0.0.0.0"), (bytes(6), address)))
                self.checked[address] = (left - 1, now + 1.0)
            else:
                del self.checked[address]
        self._flush()

    def renew(self, now):
        self.dhcp.renew(now)
        self._flush()

    def release(self, now):
        result = self.dhcp.release(now)
        self._flush()
        return result

    def _flush(self):
        self.sent += self.dhcp.frames
        self.dhcp.frames.clear()
