"""The names an operator's dashboards and alarms rely on, with their labels, in Prometheus' text form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kallglot_ari.metrics import BusyHistogram, Metrics

CONTRACT: dict[str, tuple[str, set[str]]] = {
    "kallglot_calls_active": ("gauge", set()),
    "kallglot_calls_total": ("counter", {"end_reason"}),
    "kallglot_call_setup_seconds": ("histogram", set()),
    "kallglot_rtp_packets_total": ("counter", {"direction"}),
    "kallglot_rtp_lost_total": ("counter", set()),
    "kallglot_rtp_discarded_total": ("counter", {"reason"}),
    "kallglot_rtp_jitter_seconds": ("histogram", set()),
    "kallglot_mos": ("histogram", set()),
    "kallglot_media_tick_lateness_seconds": ("histogram", set()),
    "kallglot_uplink_latency_seconds": ("histogram", set()),
    "kallglot_downlink_latency_seconds": ("histogram", set()),
    "kallglot_translation_latency_seconds": ("histogram", set()),
    "kallglot_stream_reconnects_total": ("counter", set()),
    "kallglot_ari_reconnects_total": ("counter", set()),
    "kallglot_sessions_pending_end": ("gauge", set()),
}
"""Name as a query writes it, kind and labels. A change here breaks somebody's alarm."""

ALLOWED_LABELS = {"end_reason", "direction", "reason", "component", "role"}


def families(metrics: Metrics) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Name as a query writes it → kind, help and label names."""
    found = {}
    for value in vars(metrics).values():
        if value is metrics.registry:
            continue
        (family,) = value.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, family.documentation, tuple(value._labelnames))
    return found


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract(name: str) -> None:
    kind, _, labels = families(Metrics())[name]
    assert (kind, set(labels)) == CONTRACT[name]


def test_every_metric_is_of_this_project_explained_and_without_ids_as_labels() -> None:
    for name, (kind, text, labels) in families(Metrics()).items():
        assert name.startswith("kallglot_"), name
        assert text, name
        assert set(labels) <= ALLOWED_LABELS, name
        if kind == "histogram" and not name.endswith("_mos"):
            assert name.endswith(("_seconds", "_ratio")), name


def test_what_is_counted_is_shown() -> None:
    metrics = Metrics()
    metrics.calls.labels("completed").inc()
    metrics.calls_active.set(3)
    metrics.uplink_latency.observe(0.04)
    text = metrics.render().decode()
    samples = {
        (s.name, tuple(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }
    assert samples["kallglot_calls_total", (("end_reason", "completed"),)] == 1
    assert samples["kallglot_calls_active", ()] == 3
    assert samples["kallglot_uplink_latency_seconds_count", ()] == 1
    assert samples["kallglot_sessions_pending_end", ()] == 0
    assert samples["kallglot_calls_total", (("end_reason", "error"),)] == 0, "there before the first"
    assert samples["kallglot_rtp_packets_total", (("direction", "in"),)] == 0
    assert not [name for name, _ in samples if name.endswith("_created")]


def test_latency_buckets_tell_the_bounds_that_matter_apart() -> None:
    """The aims are stated in these: 60 and 125 ms of latency, 3.6 and 4.0 of MOS."""
    metrics = Metrics()
    bounds = {
        name: {
            s.labels["le"]
            for f in text_string_to_metric_families(metrics.render().decode())
            for s in f.samples
            if s.name == f"{name}_bucket"
        }
        for name in ("kallglot_uplink_latency_seconds", "kallglot_downlink_latency_seconds", "kallglot_mos")
    }
    assert {"0.06", "0.125"} <= bounds["kallglot_uplink_latency_seconds"]
    assert {"0.06", "0.125"} <= bounds["kallglot_downlink_latency_seconds"]
    assert {"3.6", "4.0"} <= bounds["kallglot_mos"]


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.ari_reconnects.inc()
    assert b"kallglot_ari_reconnects_total 1.0" in one.render()
    assert b"kallglot_ari_reconnects_total 0.0" in other.render()


@given(st.lists(st.floats(0, 3) | st.sampled_from((0.005, 0.1, 1.0))))
def test_a_busy_histogram_shows_what_another_does(values: list[float]) -> None:
    shown = []
    for kind in (Histogram, BusyHistogram):
        registry = CollectorRegistry()
        histogram = kind("kallglot_x_seconds", "What", buckets=(0.005, 0.1, 1, 2), registry=registry)
        for value in values:
            histogram.observe(value)
        shown.append(generate_latest(registry))
    assert shown[0] == shown[1]
