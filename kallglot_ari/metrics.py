"""The figures an operator sees. Names are a contract (docs/operations.md); labels never hold an id of a call."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

# kallglot_calls_created beside kallglot_calls_total would read as calls.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2)


class BusyHistogram(Histogram):
    """For what is observed a thousand times a second, always on the same thread: it counts without locks."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._bounds = [*buckets, float("inf")]
        self._counts = [0] * len(self._bounds)
        self._total = 0.0
        super().__init__(name, documentation, buckets=buckets, registry=registry)

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._total += amount

    def collect(self) -> Iterator[Any]:
        (described,) = self.describe()
        buckets = zip(map(floatToGoString, self._bounds), accumulate(self._counts), strict=True)
        yield HistogramMetricFamily(described.name, described.documentation, list(buckets), self._total)


class Metrics:
    """All metrics of one service, in a registry of their own so that several services fit in one process."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.calls_active = Gauge("kallglot_calls_active", "Calls that are up or being set up", registry=r)
        self.ready = Gauge(
            "kallglot_ready",
            "1: this part is as calls need it; 0: calls cannot be translated because of it",
            ["component"],
            registry=r,
        )
        self.calls = Counter("kallglot_calls_total", "Finished calls", ["end_reason"], registry=r)
        self.call_setup = Histogram(
            "kallglot_call_setup_seconds",
            "From the agent's answer (or the caller's entry) to audio flowing both ways",
            buckets=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10),
            registry=r,
        )
        self.calls_refused = Counter(
            "kallglot_calls_refused_total", "Calls left to the dialplan", ["reason"], registry=r
        )
        self.rtp_packets = Counter("kallglot_rtp_packets_total", "RTP packets", ["direction"], registry=r)
        self.rtp_lost = Counter("kallglot_rtp_lost_total", "RTP packets that never came, or too late", registry=r)
        self.rtp_reordered = Counter("kallglot_rtp_reordered_total", "RTP packets that came out of order", registry=r)
        self.rtp_concealed = Counter(
            "kallglot_rtp_concealed_seconds_total",
            "Sound of finished legs made up for packets that were not there",
            registry=r,
        )
        self.rtp_discarded = Counter("kallglot_rtp_discarded_total", "Datagrams not used", ["reason"], registry=r)
        self.capture_lost = Counter(
            "kallglot_capture_lost_total",
            "Packets and pieces of recordings not written: slow, failed",
            ["reason"],
            registry=r,
        )
        self.rtp_jitter = Histogram(
            "kallglot_rtp_jitter_seconds",
            "Interarrival jitter of a finished leg (RFC 3550 §6.4.1)",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
            registry=r,
        )
        self.rtp_buffer = Histogram(
            "kallglot_rtp_buffer_seconds",
            "Delay of the jitter buffer of a finished leg, as it was last",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
            registry=r,
        )
        self.rtp_drift = Histogram(
            "kallglot_rtp_drift_ratio",
            "By how much a finished leg's clock went differently from ours, faster or slower; 1 ppm is 0.000001",
            buckets=(5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3),
            registry=r,
        )
        self.mos = Histogram(
            "kallglot_mos", "Estimated MOS of a finished leg (ITU-T G.107)",
            buckets=(1.5, 2, 2.5, 3, 3.3, 3.6, 3.8, 4, 4.1, 4.2, 4.3, 4.4, 4.5), registry=r,
        )  # fmt: skip
        self.sip_lost = Counter(
            "kallglot_sip_lost_total",
            "RTP packets lost between Asterisk and the phones, by Asterisk's count (in) and the phones' (out)",
            ["direction"],
            registry=r,
        )
        self.sip_jitter = Histogram(
            "kallglot_sip_jitter_seconds",
            "Jitter of what Asterisk receives from a phone, at each look at a leg",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
            registry=r,
        )
        self.sip_round_trip = Histogram(
            "kallglot_sip_round_trip_seconds",
            "Round trip between Asterisk and a phone by RTCP, at each look at a leg",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
            registry=r,
        )
        self.sip_mos = Histogram(
            "kallglot_sip_mos", "Estimated MOS of what Asterisk receives from a phone, at each look at a leg",
            buckets=(1.5, 2, 2.5, 3, 3.3, 3.6, 3.8, 4, 4.1, 4.2, 4.3, 4.4, 4.5), registry=r,
        )  # fmt: skip
        self.tick_lateness = BusyHistogram(
            "kallglot_media_tick_lateness_seconds",
            "How late the 10 ms media tick ran",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
            registry=r,
        )
        self.uplink_latency = BusyHistogram(
            "kallglot_uplink_latency_seconds",
            "From RTP in (a chunk's first packet) to stream out",
            buckets=_LATENCY,
            registry=r,
        )
        self.downlink_latency = Histogram(
            "kallglot_downlink_latency_seconds",
            "From stream in to first RTP out, at the start of a talkspurt",
            buckets=_LATENCY,
            registry=r,
        )
        self.translation_latency = Histogram(
            "kallglot_translation_latency_seconds",
            "From the end of speech to the first translated audio",
            buckets=(0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 6, 10),
            registry=r,
        )
        self.translation_lag = Histogram(
            "kallglot_translation_lag_seconds",
            "The most a leg's translated speech was behind its arrival, once for each talkspurt",
            buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 20),
            registry=r,
        )
        self.stage_latency = Histogram(
            "kallglot_interpreter_stage_seconds",
            "Time in one stage of the embedded interpreter",
            ["component"],
            buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 4, 8),
            registry=r,
        )
        self.stream_reconnects = Counter(
            "kallglot_stream_reconnects_total", "Streams opened again in mid-call", registry=r
        )
        self.ladder = Counter(
            "kallglot_ladder_steps_total",
            "What was done when Kallglot failed in mid-call: reconnect, new_session, direct, restored",
            ["reason"],
            registry=r,
        )
        self.replayed = Counter(
            "kallglot_stream_replayed_chunks_total", "Uplink chunks sent again after a stream was lost", registry=r
        )
        self.stream_dropped = Counter(
            "kallglot_stream_dropped_chunks_total", "Uplink chunks dropped, the oldest first", registry=r
        )
        self.stream_messages = Counter(
            "kallglot_stream_messages_total", "Stream messages not used", ["reason"], registry=r
        )
        self.ari_reconnects = Counter("kallglot_ari_reconnects_total", "ARI event sockets opened again", registry=r)
        self.ari_unknown_events = Counter(
            "kallglot_ari_unknown_events_total", "ARI events of a type not known", registry=r
        )
        self.ari_malformed_events = Counter(
            "kallglot_ari_malformed_events_total", "ARI events that do not fit their model", registry=r
        )
        self.ari_sink_errors = Counter("kallglot_ari_sink_errors_total", "ARI events whose handling failed", registry=r)
        self.ami_reconnects = Counter("kallglot_ami_reconnects_total", "AMI connections opened again", registry=r)
        self.sessions_pending_end = Gauge(
            "kallglot_sessions_pending_end", "Sessions that still have to be ended", registry=r
        )
        self.api_requests = Counter(
            "kallglot_api_requests_total", "Requests to Kallglot", ["component", "reason"], registry=r
        )
        self.events_dropped = Counter(
            "kallglot_events_dropped_total", "Published events that a slow reader missed", registry=r
        )
        self.http_malformed = Counter("kallglot_http_malformed_total", "Requests that are no HTTP", registry=r)
        self.webhooks = Counter("kallglot_webhooks_total", "Webhooks received", ["reason"], registry=r)
        self.agi_requests = Counter("kallglot_agi_requests_total", "FastAGI requests", ["reason"], registry=r)
        self.agi_seconds = Histogram(
            "kallglot_agi_seconds",
            "From a FastAGI connection to the end of its script, the API's own time included",
            ["component"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=r,
        )
        self.interpreter_dropped = Counter(
            "kallglot_interpreter_dropped_total", "Work the embedded interpreter left undone", ["reason"], registry=r
        )

        # There from the start, so that a rate over the first of them is one and not nothing.
        for reason in ("completed", "customer_hangup", "agent_hangup", "error", "timeout"):
            self.calls.labels(reason)
        for step in ("reconnect", "new_session", "direct", "restored"):
            self.ladder.labels(step)
        for direction in ("in", "out"):
            self.rtp_packets.labels(direction)
            self.sip_lost.labels(direction)

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)
