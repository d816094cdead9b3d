"""Reno and CUBIC to compare with, and CUBIC as the competitor (RFC 9002 section 7, RFC 9438, RFC 9406's delay test)."""

from __future__ import annotations

import math

from lanparty.quic.flight import AckSample

_C = 0.4
_BETA = 0.7


class Reno:
    """RFC 9002 section 7: slow start, half at a loss, one packet per round trip. Unpaced, as kernels' are."""

    beta = 0.5

    def __init__(self) -> None:
        self._datagram_size = 1472
        self.window = 10 * 1472
        self.pacing_rate = math.inf
        self.catch_up = self.missed = 0.0
        self._threshold = math.inf
        self._recovery = -1
        self._round_end = 0
        self._round_floor = math.inf
        self._before_floor = math.inf
        self._samples = 0

    @property
    def datagram_size(self) -> int:
        return self._datagram_size

    @datagram_size.setter
    def datagram_size(self, size: int) -> None:
        self._datagram_size = size
        self.window = max(self.window, 2 * size)

    def on_sent(self, now: float, size: int, in_flight: int) -> None:
        pass

    def on_ack(self, sample: AckSample) -> None:
        if sample.lost and sample.delivered > self._recovery and sample.prior_delivered >= self._recovery:
            self._recovery = sample.delivered
            self._reduce(sample.now)
            return
        if not sample.acked or sample.app_limited or sample.prior_delivered < self._recovery:
            return
        if self.window < self._threshold:
            self.window += sample.acked
            self._hystart(sample)
        else:
            self._avoid(sample)

    def _hystart(self, sample: AckSample) -> None:
        """RFC 9406 without its CSS: leave slow start when a round's minimum of 8 samples is up by an eighth."""
        if sample.prior_delivered >= self._round_end:
            self._round_end = sample.delivered
            self._before_floor, self._round_floor = self._round_floor, math.inf
            self._samples = 0
        if sample.rtt is None:
            return
        self._round_floor = min(self._round_floor, sample.rtt)
        self._samples += 1
        if self._samples >= 8 and self._before_floor < math.inf:
            limit = min(max(self._before_floor / 8, 0.004), 0.016)
            if self._round_floor >= self._before_floor + limit:
                self._threshold = self.window

    def _reduce(self, now: float) -> None:
        self.window = max(int(self.window * self.beta), 2 * self._datagram_size)
        self._threshold = self.window

    def _avoid(self, sample: AckSample) -> None:
        self.window += self._datagram_size * sample.acked // self.window

    def on_persistent_congestion(self, now: float) -> None:
        self._reduce(now)
        self.window = 2 * self._datagram_size

    def on_path_change(self, now: float) -> None:
        self.window = 10 * self._datagram_size
        self._threshold = math.inf


class Cubic(Reno):
    """RFC 9438, with fast convergence and the Reno-friendly region."""

    beta = _BETA

    def __init__(self) -> None:
        super().__init__()
        self._max = 0.0
        self._began = math.inf
        self._k = 0.0
        self._estimate = 0.0
        self._srtt = 0.0
        self._exact = 0.0

    def on_ack(self, sample: AckSample) -> None:
        if sample.rtt is not None:
            self._srtt = sample.rtt if not self._srtt else self._srtt + (sample.rtt - self._srtt) / 8
        super().on_ack(sample)

    def _reduce(self, now: float) -> None:
        window = self.window / self._datagram_size
        self._max = window * (1 + _BETA) / 2 if window < self._max else window
        super()._reduce(now)
        self._begin_epoch(now)

    def _begin_epoch(self, now: float) -> None:
        window = self.window / self._datagram_size
        self._began = now
        self._exact = self._estimate = window
        self._max = max(self._max, window)
        self._k = ((self._max - window) / _C) ** (1 / 3)

    def _avoid(self, sample: AckSample) -> None:
        if self._began == math.inf:
            self._begin_epoch(sample.now)
        segments = sample.acked / self._datagram_size
        window = self._exact
        alpha = 3 * (1 - _BETA) / (1 + _BETA) if self._estimate < self._max else 1.0
        self._estimate += alpha * segments / window
        aim = _C * (sample.now - self._began + self._srtt - self._k) ** 3 + self._max
        aim = min(max(aim, window), 1.5 * window)
        window += (aim - window) / window * segments
        self._exact = max(window, self._estimate)
        self.window = int(self._exact * self._datagram_size)

    def on_persistent_congestion(self, now: float) -> None:
        super().on_persistent_congestion(now)
        self._began = math.inf
