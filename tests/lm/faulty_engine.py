"""The engine process, in which requests fail as the name of their adapter or output folder says: ``fault-STEP-ERROR``.

``STEP`` is the number of the operation of torch that raises, ``ERROR`` the place of the error in `faults.ERRORS`. Other names: ``changed``
(the base is), ``other`` (the reply holds another checksum), ``twice`` (two replies), ``garbage``, ``hold`` (no reply).
"""

import time
from pathlib import Path
from typing import Any

from coral_core import child_process
from coral_core.lm import engine
from tests.lm import faults

_do = engine.Worker._do
_out: list[Any] = []


def do(self: engine.Worker, op: str, body: dict[str, Any], send: Any) -> Any:
    """`Worker._do`, with the fault that the request names."""
    name = Path(((body.get("entries") or [{}])[0].get("adapter") or {}).get("folder") or body.get("out") or "x").name
    if name == "changed":
        next(iter(self._model.loaded.model.parameters())).data.view(-1)[-1] += 1
    if name == "other":
        self._model.check = lambda: "0" * 64
    if name == "twice":
        _out[0].write(b'{"id": 2, "ok": true, "base": "x", "result": {}}\n')
    if name == "garbage":
        _out[0].write(b"not JSON\n")
    if name == "hold":
        time.sleep(600)  # subject: an engine that holds its answer back
    if not name.startswith("fault-"):
        return _do(self, op, body, send)
    _, step, error = name.split("-")
    steps = faults.Steps(int(step), faults.ERRORS[int(error)])
    with faults.sparing_the_way_back(steps), faults.operations(steps):
        return _do(self, op, body, send)


def take_pipes() -> Any:
    """`child_process.take_pipes`, with the pipe at hand."""
    reader, writer = _take_pipes()
    _out.append(writer)
    return reader, writer


_take_pipes = child_process.take_pipes
engine.Worker._do = do  # type: ignore[method-assign]
child_process.take_pipes = take_pipes
if __name__ == "__main__":
    engine.main()
