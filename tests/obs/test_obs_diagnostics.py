import attrs
import pytest

from lanparty.obs import diagnostics as d
from lanparty.obs.counters import TunnelCounters

TORN = {"overlay-frame-expired": 60, "overlay-piece-overlap": 40}


@pytest.mark.parametrize(
    ("counters", "says"),
    [
        (TunnelCounters(), []),
        (TunnelCounters(frames_in=50, other_dropped={"overlay-frame-expired": 40}), []),  # too few to judge
        (TunnelCounters(frames_in=10_000, other_dropped={"overlay-frame-expired": 50}), []),  # half a percent
        (
            TunnelCounters(frames_in=900, other_dropped={"overlay-frame-expired": 60, "overlay-piece-overlap": 40}),
            ["10 % of the frames for this computer arrive with"],
        ),
        (TunnelCounters(datagrams_out=900, queue_expired=50, queue_dropped=50), ["10 % of what this computer sends"]),
        (TunnelCounters(frames_out=98, oversize_dropped=2), ["2 % of the frames are too large"]),
        (TunnelCounters(datagrams_in=80, other_dropped={"overlay-piece-late": 20, "no-handler": 9}), []),
        (TunnelCounters(datagrams_in=80, other_dropped={"overlay-version": 20}), ["20 % of what comes from the relay"]),
        (
            TunnelCounters(
                frames_in=900,
                other_dropped={"overlay-frame-expired": 60, "overlay-piece-overlap": 40},
                frames_out=50,
                oversize_dropped=50,
            ),
            ["50 % of the frames are too large", "10 % of the frames for this computer"],
        ),
    ],
)
def test_tunnel_sentences(counters, says):
    found = d.tunnel_sentences(counters)
    assert len(found) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(found, says, strict=True))


def test_frames_that_the_adapter_did_not_take():
    (sentence,) = d.tunnel_sentences(TunnelCounters(frames_in=50), device_dropped=50)
    assert sentence.startswith("50 % of the frames are not taken by the adapter")


WELL = d.DeviceState("lan0", True, 100, 100, 60.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"is_up": False}, ["adapter lan0 is down"]),
        ({"frames_read": 0}, ["no program of this computer has sent anything into adapter lan0"]),
        ({"frames_written": 0}, ["frames leave by adapter lan0 but none come back"]),
        ({"frames_read": 0, "frames_written": 0, "seconds": 3.0}, []),  # too early
    ],
)
def test_device_sentences(changes, says):
    found = d.device_sentences(attrs.evolve(WELL, **changes))
    assert len(found) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(found, says, strict=True))


def test_news_are_told_once_and_again_after_they_were_gone():
    news = d.News()
    assert news.of(["5 % lost", "adapter down"]) == ["5 % lost", "adapter down"]
    assert news.of(["17 % lost", "adapter down"]) == []
    assert news.of(["adapter down"]) == []
    assert news.of(["6 % lost", "adapter down"]) == ["6 % lost"]
