"""Measures objectives of plug-ins in a child process, which a job's time limit can end.

Protocol: JSON lines. Request ``{name, version, judged}``, reply ``{score}`` or ``{error, problem, remedy}``. The process
has the environment and import path of the lane, starts with the first objective and stays for the next evaluation. It is
no sandbox: a plug-in is trusted. A plug-in that does not return uses up the time of its own job only.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from coral_core.child_process import ChildProcess, ProcessEndedError, error_reply, serve
from coral_core.errors import ConfigError, CoralError, EngineError
from coral_core.scoring.judged import Judged
from coral_core.scoring.plugins import ObjectiveError, measure, measure_one
from coral_core.time_limit import TimeLimit

_JUDGED = TypeAdapter(Judged)
_ERRORS: dict[str, type[CoralError]] = {kind.__name__: kind for kind in (ConfigError, EngineError, ObjectiveError)}


class MeasuringProcess(ChildProcess):
    """The client of the process: measures objectives within the time limit of a job."""

    module = "coral_core.scoring.measuring_process"
    killed_error = EngineError("the lane's plug-ins were ended")

    def measure(
        self, versions: Mapping[str, str], judged: Judged, limit: TimeLimit, remarks: dict[str, str] | None = None
    ) -> dict[str, float]:
        """Score of each plug-in objective, as `plugins.measure`, in the child process.

        Args:
            versions: Name -> version of the objectives to measure.
            judged: One evaluation.
            limit: Time limit of the job; a process that exceeds it is ended.
            remarks: As for `plugins.measure`.

        Raises:
            ConfigError: an objective is not installed here.
            EngineError: it has another version here, or also fails with the buggy code in place of every patch.
            EngineTimeOutError: the time is over.
        """

        def ask(name: str, version: str, seen: Judged) -> float:
            request = {"name": name, "version": version, "judged": _JUDGED.dump_python(seen, mode="json")}
            try:
                reply = json.loads(self.exchange(request, time.monotonic() + limit.left()))
            except TimeoutError:
                raise limit.over(f"objective {name}") from None
            except ProcessEndedError:
                raise ObjectiveError(
                    f"objective {name}: the process that measured it ended", remedy="Repair the plug-in."
                ) from None
            if "error" in reply:
                raise _ERRORS[reply["error"]](reply["problem"], remedy=reply["remedy"])
            return float(reply["score"])

        return measure(versions, judged, remarks, ask)


def _answer(request: dict[str, Any], _: object) -> dict[str, Any]:
    try:
        judged = _JUDGED.validate_python(request["judged"])
        return {"score": measure_one(request["name"], request["version"], judged)}
    except CoralError as error:
        return error_reply(error)


if __name__ == "__main__":
    serve(_answer)
