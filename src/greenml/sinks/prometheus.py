"""Prometheus: a page to scrape, ``prometheus:9400``, or a file for node_exporter, ``prometheus:/DIR/NAME.prom``.

Where neither can be reached, a Pushgateway, ``prometheus:push=http://HOST:9091``. It keeps the last figures of each run
until somebody deletes them, as https://prometheus.io/docs/practices/pushing/ warns.

The page is for this machine alone unless an address is given, ``prometheus:0.0.0.0:9400``. It stays, with the record's
figures, until the process ends or its next run takes the page over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, generate_latest, push_to_gateway, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import basic_auth_handler, default_handler
from prometheus_client.registry import Collector

from greenml import files
from greenml.errors import SettingsError
from greenml.sinks import RunInfo
from greenml.sinks._names import METRICS

if TYPE_CHECKING:
    from greenml.accounting.status import RunStatus
    from greenml.record.schema import RunRecord

PORT = 9400
PUSH_SECONDS = 30.0


def create(argument: str) -> Page | TextFile | Gateway:
    """Make the sink of a port, an address with a port, a file, or a Pushgateway.

    Raises:
        SettingsError: it is none of these.
    """
    if argument.endswith(".prom"):
        return TextFile(Path(argument).absolute())
    if argument.startswith("push="):
        return Gateway(argument.removeprefix("push="))
    address, _, port = argument.rpartition(":")
    if not (port or PORT) or not (not argument or (port.isdecimal() and 0 < int(port) < 65536)):
        raise SettingsError(
            f"prometheus:{argument}: give a port, such as prometheus:9400, a file that ends in .prom, or"
            " push=http://HOST:9091"
        )
    return Page(address or "127.0.0.1", int(port or PORT))


class Figures(Collector):
    """The last figures of a run, as metrics; none before the first update."""

    def __init__(self, run: RunInfo) -> None:
        self._run = run
        self._latest: RunStatus | RunRecord | None = None

    def take(self, latest: RunStatus | RunRecord) -> None:
        """Keep the figures of a status or of the record."""
        self._latest = latest

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; a figure that is not known has no sample."""
        latest = self._latest
        info = {"run_id": self._run.run_id, "name": self._run.name, "status": latest.status if latest else "running"}
        yield InfoMetricFamily("greenml_run", "The run that the figures are of.", value=info)
        if latest is None:
            return
        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family: Any = kind(metric.prometheus, metric.description, labels=metric.labels)
            for labels, value in metric.values(latest):
                if value is not None:
                    family.add_metric([labels[name] for name in metric.labels], value)
            if family.samples:
                yield family


class Page:
    """A page that Prometheus scrapes."""

    lives_with_process = True

    def __init__(self, address: str, port: int) -> None:
        self._at = (address, port)
        self._figures: Figures | None = None

    def open(self, run: RunInfo) -> None:
        """Serve the page.

        Raises:
            OSError: the port is taken.
        """
        self._figures = Figures(run)
        with _lock:
            if self._at in _free:
                registry = _free.pop(self._at)
            else:
                registry = _Registry()
                registry.server = start_http_server(self._at[1], addr=self._at[0], registry=registry)[0]
                _servers.append(registry.server)
            registry.show(self._figures)
            self._registry = registry

    def update(self, status: RunStatus) -> None:
        """Show the figures of this moment."""
        assert self._figures is not None  # noqa: S101  opened
        self._figures.take(status)

    def close(self, record: RunRecord) -> None:
        """Show the record's figures from now on."""
        assert self._figures is not None  # noqa: S101  opened
        self._figures.take(record)
        with _lock:
            _free[self._at] = self._registry


class TextFile:
    """A file for the textfile collector of node_exporter, replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, run: RunInfo) -> None:
        """Prepare."""
        self._registry, self._figures = _Registry(), Figures(run)
        self._registry.show(self._figures)

    def update(self, status: RunStatus) -> None:
        """Write the figures of this moment.

        Raises:
            RecordError: the file cannot be written.
        """
        self._figures.take(status)
        self._write()

    def close(self, record: RunRecord) -> None:
        """Write the record's figures.

        Raises:
            RecordError: the file cannot be written.
        """
        self._figures.take(record)
        self._write()

    def _write(self) -> None:
        files.write(self._path, generate_latest(self._registry).decode("utf-8"))


class Gateway:
    """A Pushgateway: one group a run, replaced whole.

    Args:
        url: with a user and a password where it asks for them.

    Raises:
        SettingsError: it is no address.
    """

    close_seconds = update_seconds = 10.0

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise SettingsError("prometheus:push: give the gateway's address, such as prometheus:push=http://HOST:9091")
        self._handler: Callable[..., Any] = default_handler
        if address.username or address.password:
            login = unquote(address.username or ""), unquote(address.password or "")
            self._handler = partial(basic_auth_handler, username=login[0], password=login[1])
        self._url = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()

    def open(self, run: RunInfo) -> None:
        """Prepare."""
        self._run_id, self._registry, self._figures = run.run_id, _Registry(), Figures(run)
        self._registry.show(self._figures)

    def update(self, status: RunStatus) -> None:
        """Push the figures of this moment.

        Raises:
            OSError: the gateway did not take them.
        """
        self._figures.take(status)
        self._push()

    def close(self, record: RunRecord) -> None:
        """Push the record's figures.

        Raises:
            OSError: the gateway did not take them.
        """
        self._figures.take(record)
        self._push()

    def _push(self) -> None:
        push_to_gateway(
            self._url, "greenml", self._registry, {"run_id": self._run_id}, PUSH_SECONDS, self._handler
        )  # fmt: skip


class _Registry(CollectorRegistry):
    """A registry that shows one run."""

    def __init__(self) -> None:
        super().__init__(auto_describe=False)
        self.server: Any = None
        self._shown: Figures | None = None

    def show(self, figures: Figures) -> None:
        if self._shown is not None:
            self.unregister(self._shown)
        self._shown = figures
        self.register(figures)


_lock = threading.Lock()
_free: dict[tuple[str, int], _Registry] = {}  # pages whose run has ended
_servers: list[Any] = []


def stop_pages() -> None:
    """Take all pages of ended runs down."""
    with _lock:
        for registry in _free.values():
            registry.server.shutdown()
            registry.server.server_close()
            _servers.remove(registry.server)
        _free.clear()


def _in_child() -> None:
    """Let go of the parent's port in a forked child."""
    global _lock  # noqa: PLW0603  the thread that holds it may not be here
    _lock = threading.Lock()
    for server in _servers:
        server.socket.close()
    _servers.clear()
    _free.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
