"""Measures objectives of plug-ins in a child process, which a job's time limit can end.

Protocol: JSON lines. Request ``{name, version, judged}``, reply ``{score}`` or ``{error, problem, remedy}``. The process
has the environment and import path of the lane, starts with the first objective and stays for the next evaluation. It is
no sandbox: a plug-in is trusted. A plug-in that does not return uses up the time of its own job only.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from coral_core.errors import ConfigError, CoralError, EngineError
from coral_core.parent_process import end_with, take_pipes
from coral_core.scoring.child_process import ChildProcess
from coral_core.scoring.judged import Judged
from coral_core.scoring.plugins import ObjectiveError, measure, measure_one, or_nothing
from coral_core.time_limit import TimeLimit

_JUDGED = TypeAdapter(Judged)
_ERRORS: dict[str, type[CoralError]] = {kind.__name__: kind for kind in (ConfigError, EngineError, ObjectiveError)}


class MeasuringHere:
    """In the caller's process, for a debugger. The limit is not enforced."""

    def measure(
        self, versions: Mapping[str, str], judged: Judged, limit: TimeLimit, remarks: dict[str, str] | None = None
    ) -> dict[str, float]:
        return measure(versions, judged, remarks)

    def kill(self) -> None:
        return

    def close(self) -> None:
        return


class MeasuringProcess(ChildProcess):
    """Measures in a child process, within the time limit of a job."""

    module = "coral_core.scoring.measuring_process"
    killed_error = EngineError("the lane's plug-ins were ended")

    def measure(
        self, versions: Mapping[str, str], judged: Judged, limit: TimeLimit, remarks: dict[str, str] | None = None
    ) -> dict[str, float]:
        """As `plugins.measure`, within `limit`. Raises `ConfigError`, `EngineError`, `EngineTimeOutError`."""

        def one(name: str, version: str) -> float:
            return or_nothing(name, lambda seen: self._ask(name, version, _plain(seen), limit), judged, remarks)

        return {name: one(name, version) for name, version in versions.items()}

    def _ask(self, name: str, version: str, judged: Any, limit: TimeLimit) -> float:
        process = self._running()
        assert process.stdout is not None
        out_of_time = threading.Event()

        def end() -> None:
            out_of_time.set()
            process.kill()

        timer = threading.Timer(max(0.0, limit.left()), end)
        timer.daemon = True
        timer.start()
        line = b""
        with contextlib.suppress(OSError):
            self._send(process, {"name": name, "version": version, "judged": judged})
            line = process.stdout.readline()
        timer.cancel()
        if out_of_time.is_set():
            self.close()
            raise limit.over(f"objective {name}")
        if not line.endswith(b"\n"):
            self.close()
            raise ObjectiveError(f"objective {name}: the process that measured it ended", remedy="Repair the plug-in.")
        reply = json.loads(line)
        if "error" in reply:
            raise _ERRORS[reply["error"]](reply["problem"], remedy=reply["remedy"])
        return float(reply["score"])


Measurer = MeasuringHere | MeasuringProcess


def _plain(judged: Judged) -> Any:
    return _JUDGED.dump_python(judged, mode="json")


def _serve(reader: BinaryIO, writer: BinaryIO) -> None:
    for line in reader:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            judged = _JUDGED.validate_python(request["judged"])
            reply = {"score": measure_one(request["name"], request["version"], judged)}
        except CoralError as error:
            reply = {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}
        writer.write(json.dumps(reply).encode() + b"\n")
        writer.flush()


def main() -> None:
    """Answer requests until the lane hangs up."""
    reader, writer = take_pipes()  # a plug-in may print
    end_with(int(sys.argv[1]))
    _serve(reader, writer)


if __name__ == "__main__":
    main()
