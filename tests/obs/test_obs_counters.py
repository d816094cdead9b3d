from lanparty.ctrl.codec import ControlDecoder, encode
from lanparty.ctrl.messages import Stats
from lanparty.obs.counters import TunnelCounters


def test_all_counters_start_at_zero_and_travel_by_name():
    counters = TunnelCounters()
    assert set(counters.as_dict().values()) == {0}
    counters.frames_in += 2
    counters.drop("bad-version")
    counters.drop("bad-version", 4)
    assert counters.as_dict()["frames_in"] == 2
    assert counters.as_dict()["dropped.bad-version"] == 5
    assert "other_dropped" not in counters.as_dict()


def test_they_fit_a_stats_message():
    counters = TunnelCounters(frames_out=2**40)
    counters.drop("overlap")
    stats = Stats(counters.as_dict())
    assert ControlDecoder().feed_untrusted(encode(stats)) == [stats]


def test_dropped_is_the_sum_of_all_reasons():
    counters = TunnelCounters(frames_in=100, mss_clamped=9, queue_dropped=1, queue_expired=2, oversize_dropped=4)
    counters.drop("x", 8)
    assert counters.dropped == 15


def test_counters_of_two_tunnels_are_apart():
    one, two = TunnelCounters(), TunnelCounters()
    one.drop("x")
    assert two.dropped == 0
