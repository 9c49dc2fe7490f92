"""`coral metrics serve`: serves the metrics of an installation to Prometheus."""

import threading
from typing import Annotated

from cyclopts import Parameter

from coral_core.errors import ConfigError
from flows.cli.places import Runs, StorePath


def serve(
    *,
    port: Annotated[int, Parameter(help="Port to listen on.")] = 9469,
    host: Annotated[
        str, Parameter(help="Address to listen on; whoever can reach it can read the figures.")
    ] = "127.0.0.1",
    runs: Runs = "runs",
    store: StorePath = None,
) -> None:
    """Serve queue depths, completion rates, utilization, errors, latency and the rest at http://HOST:PORT/metrics."""
    from prometheus_client import CollectorRegistry, start_http_server

    from flows.cli.health import find_api
    from flows.monitoring.metrics import InstallationCollector

    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: is no port", remedy="Give one of 1 to 65535; 0 takes a free one.")
    url, error = find_api()
    registry = CollectorRegistry()
    registry.register(InstallationCollector(store or f"{runs}/store", runs, find_api))
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen on {host} ({error.strerror})", remedy="Choose another."
        ) from None
    print(
        f"metrics at http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics of {url or error}; Ctrl-C ends it",
        flush=True,
    )
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
