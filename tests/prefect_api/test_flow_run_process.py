"""A process whose reader is gone: one that a worker started goes on, any other ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from rich.console import Console
from flows.prefect_api.flow_run_process import outlive_worker

outlive_worker()
console = Console(file=sys.stderr)  # as Prefect's handler, which knows the stream and not the descriptor
console.print("begun")
sys.stdin.read()  # until who started this has closed the other ends
time.sleep(0.5)
console.print("said to nobody")
print("nor this", flush=True)
Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize("by_worker", [True, False])
def test_what_is_printed_to_nobody_ends_no_flow_run(tmp_path: Path, by_worker: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT__FLOW_RUN_ID"}
    if by_worker:
        environment["PREFECT__FLOW_RUN_ID"] = "00000000-0000-0000-0000-000000000000"
    done = tmp_path / "done"
    command = [sys.executable, "-c", PROGRAM, str(done)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert process.stderr.readline() == b"begun\n"
    for end in (process.stdout, process.stderr, process.stdin):
        end.close()
    code = process.wait(timeout=120)
    assert (code == 0 and done.exists()) is by_worker


def test_a_thread_that_never_ends_does_not_hold_the_process() -> None:
    """A worker of anyio whose event loop ended without it."""
    code = (
        "import threading\nfrom flows.prefect_api.flow_run_process import leave\n"
        "threading.Thread(name='AnyIO worker thread', target=threading.Event().wait).start()\n"
        "print('done')\nleave(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
