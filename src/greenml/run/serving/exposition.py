"""The metrics page of an endpoint, as Prometheus and OpenMetrics read it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from greenml.run.serving.ledger import BUCKETS_JOULES, Group
from greenml.run.serving.meter import ServingMeter, ServingTotals
from greenml.sinks._names import METRICS

_GROUP = ("model", "kind")
_EDGES = [*(f"{edge!r}" for edge in BUCKETS_JOULES), "+Inf"]
_NAMES = {metric.tracker: (metric.prometheus, metric.description) for metric in METRICS}


def page(meter: ServingMeter, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of an endpoint and their content type.

    Args:
        meter: of the endpoint.
        accept: the header of the request: OpenMetrics where it is asked for, else Prometheus's text.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(meter.totals()))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Figures(Collector):
    """The totals of an endpoint; a figure that is not known has no sample."""

    def __init__(self, totals: ServingTotals) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        totals = self._totals
        yield self._histogram()
        requests = CounterMetricFamily("greenml_requests", "Requests that ended.", labels=(*_GROUP, "status"))
        tokens = CounterMetricFamily("greenml_tokens", "Tokens of requests.", labels=(*_GROUP, "direction"))
        grams = CounterMetricFamily("greenml_request_co2e_grams", "Emissions of requests, PUE included.", labels=_GROUP)
        cost = CounterMetricFamily("greenml_request_cost_usd", "Share of the machine's price.", labels=_GROUP)
        for key, group in totals.groups.items():
            for status, count in group.requests.items():
                requests.add_metric([*key, status], count)
            if group.with_tokens:
                tokens.add_metric([*key, "input"], group.input_tokens)
                tokens.add_metric([*key, "output"], group.output_tokens)
            for family, value in ((grams, group.used.grams), (cost, group.used.usd)):
                if value is not None:
                    family.add_metric(key, value)
        yield from (requests, tokens, grams, cost)
        both_grams = totals.co2e_grams is not None and totals.idle_co2e_grams is not None
        known = (
            ("green/energy_joules", totals.device_joules),
            ("green/co2e_grams", (totals.co2e_grams or 0) + (totals.idle_co2e_grams or 0) if both_grams else None),
        )
        yield from (_counter(*_NAMES[name], value) for name, value in known if value is not None)
        for name, text, value in (
            ("greenml_idle_energy_joules", "Energy of device time without a request in flight.", totals.idle_joules),
            ("greenml_idle_co2e_grams", "Emissions of it, PUE included.", totals.idle_co2e_grams),
            ("greenml_idle_cost_usd", "The machine's price for it.", totals.idle_cost_usd),
            ("greenml_idle_seconds", "Time without a request in flight.", totals.idle_seconds),
            ("greenml_settled_seconds", "Time that is shared out.", totals.seconds),
        ):
            if value is not None:
                yield _counter(name, text, value)
        live = totals.live
        for name, text, value in (
            (*_NAMES["green/power_watts"], live.get("watts")),
            ("greenml_joules_per_token", "Over the last seconds.", live.get("joules_per_token")),
            ("greenml_idle_ratio", "Share of the last seconds without a request in flight.", live.get("idle_ratio")),
            ("greenml_requests_in_flight", "Requests that go on, of all workers of the machine.", totals.in_flight),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)

    def _histogram(self) -> HistogramMetricFamily:
        text = "Energy of a request: its share of GPUs, CPUs and DRAM."
        family = HistogramMetricFamily("greenml_request_energy_joules", text, labels=_GROUP)
        for key, group in self._totals.groups.items():
            family.add_metric(list(key), _buckets(group), group.joules_settled)
        return family


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, value=value)


def _buckets(group: Group) -> list[tuple[str, float]]:
    return list(zip(_EDGES, accumulate(map(float, group.bucket_counts)), strict=True))
