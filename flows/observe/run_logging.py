"""Sends log records of CORAL-X (loggers below ``coral``) to the log of a Prefect flow run.

Prefect's own setting, PREFECT_LOGGING_EXTRA_LOGGERS, leaves the level at WARNING and drops records of threads outside the
flow's context, such as a lane's heartbeat and the dispatcher. Here each record is marked with its flow run instead.
"""

import contextlib
import logging
from collections.abc import Iterator

from prefect.logging.handlers import APILogHandler

from flows.prefect_api.prefect_client import sends_logs


class _Stamp(logging.Filter):
    """Adds the id of a flow run to each record."""

    def __init__(self, flow_run_id: str) -> None:
        super().__init__()
        self._flow_run_id = flow_run_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.flow_run_id = self._flow_run_id
        return True


@contextlib.contextmanager
def logged_to(flow_run_id: str | None) -> Iterator[None]:
    """Send records of level INFO and above to the log of a flow run while the body runs.

    Args:
        flow_run_id: The flow run; None or "": records are not sent.
    """
    if not flow_run_id or not sends_logs():
        yield
        return
    root = logging.getLogger("coral")
    handler = APILogHandler()
    handler.addFilter(_Stamp(flow_run_id))
    others = [known for known in root.handlers if isinstance(known, APILogHandler)]
    level = root.level
    for other in others:  # added by PREFECT_LOGGING_EXTRA_LOGGERS: each line would be sent twice
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        for other in others:
            root.addHandler(other)
