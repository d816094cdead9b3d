"""What Windows does with the wire of one adapter: its DHCP client, ARP, and programs that use its address. Sans-I/O."""

import attrs
from fake_dhcp import WindowsDhcp
from fake_packets import arp, arp_answer


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
    dhcp: WindowsDhcp = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.dhcp = WindowsDhcp(self.mac)

    @property
    def wake_at(self):
        return self.dhcp.wake_at

    def restart(self, mac, dhcp_enabled):
        """The adapter was stopped and started: all that was on it is gone."""
        self.mac, self.dhcp_enabled, self.connected = mac, dhcp_enabled, False
        self.fixed.clear()
        self.taken.clear()
        asked = self.dhcp.asked
        self.dhcp = WindowsDhcp(mac)
        self.dhcp.asked = asked

    def media(self, connected, now):
        if connected == self.connected:
            return
        self.connected = connected
        if self.dhcp_enabled:
            self.dhcp.media(connected, now)
        if connected:
            self.sent += [arp(1, (self.mac, "0.0.0.0"), (bytes(6), address)) for address in self.fixed]
        self._flush()

    def put_on(self, address, prefix):
        """A fixed address; whether somebody else has it is asked as soon as the cable is in (RFC 5227)."""
        self.fixed[address] = prefix
        if self.connected:
            self.sent.append(arp(1, (self.mac, "0.0.0.0"), (bytes(6), address)))

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
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02" and address in self.fixed:
                self._claimed(frame, address)
        if self.dhcp_enabled:
            self.dhcp.receive(frame, now)
        self._flush()

    def tick(self, now):
        self.dhcp.tick(now)
        self._flush()

    def renew(self, now):
        self.dhcp.renew(now)
        self._flush()

    def release(self, now):
        result = self.dhcp.release(now)
        self._flush()
        return result

    def _claimed(self, frame, address):
        if frame[28:32] == arp(2, (bytes(6), address), (bytes(6), address))[28:32] and frame[22:28] != self.mac:
            self.taken.add(address)

    def _flush(self):
        self.sent += self.dhcp.frames
        self.dhcp.frames.clear()
