import attrs
import pytest

from lanparty.obs import diagnostics as d
from lanparty.obs.counters import TunnelCounters


def test_connection_sentences_name_the_address_and_what_to_do():
    assert d.connection_silent("203.0.113.10", 443, 5.0).startswith(
        "no answer from the relay at 203.0.113.10:443 within 5 s: UDP may be blocked"
    )
    assert "[2001:db8::1]:443" in d.connection_silent("2001:db8::1", 443, 4.5)
    assert "nothing listens on UDP port 444" in d.port_closed("203.0.113.10", 444)
    assert "no IPv6 connection" in d.connection_unreachable("2001:db8::1", 443, "network is unreachable")
    assert "no IPv4 connection" in d.connection_unreachable("203.0.113.10", 443, "network is unreachable")
    assert "relay.example does not resolve" in d.name_unknown("relay.example")


@pytest.mark.parametrize(
    ("counters", "says"),
    [
        (TunnelCounters(), []),
        (TunnelCounters(frames_in=50, reassembly_dropped=40), []),  # too few to judge
        (TunnelCounters(frames_in=10_000, reassembly_dropped=50), []),  # half a percent
        (TunnelCounters(frames_in=900, reassembly_dropped=100), ["10 % of the frames for this computer arrive with"]),
        (TunnelCounters(datagrams_out=900, queue_expired=50, queue_dropped=50), ["10 % of what this computer sends"]),
        (TunnelCounters(frames_out=98, oversize_dropped=2), ["2 % of the frames are too large"]),
        (TunnelCounters(frames_in=50, device_dropped=50), ["50 % of the frames are not taken by the adapter"]),
        (TunnelCounters(datagrams_in=80, malformed_dropped=20), ["20 % of what comes from the relay"]),
        (
            TunnelCounters(frames_in=900, reassembly_dropped=100, frames_out=50, oversize_dropped=50),
            ["50 % of the frames are too large", "10 % of the frames for this computer"],
        ),
    ],
)
def test_tunnel_sentences(counters, says):
    found = d.tunnel_sentences(counters)
    assert len(found) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(found, says, strict=True))


WELL = d.DeviceState("lan0", True, 100, 100, True, True, 60.0)


@pytest.mark.parametrize(
    ("changes", "counters", "says"),
    [
        ({}, None, []),
        ({}, {"rx_dropped": 0}, []),
        ({}, {"rx_dropped": 30, "tx_dropped": 20}, ["the kernel dropped 50 frames on adapter lan0"]),
        ({"is_up": False}, None, ["adapter lan0 is down"]),
        ({"gateway_present": False, "frames_written": 0}, None, ["no gateway is in the room"]),
        ({"frames_read": 0}, None, ["no program of this computer has sent anything into adapter lan0"]),
        ({"frames_written": 0}, None, ["frames leave by adapter lan0 but none come back"]),
        ({"has_address": False}, None, ["adapter lan0 sees the house LAN but has no address"]),
        ({"frames_read": 0, "frames_written": 0, "has_address": False, "seconds": 3.0}, None, []),  # too early
    ],
)
def test_device_sentences(changes, counters, says):
    found = d.device_sentences(attrs.evolve(WELL, **changes), counters)
    assert len(found) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(found, says, strict=True))
