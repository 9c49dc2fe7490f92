"""Verdicts where no value is: forged, replayed and confused records."""

from tests.judge.adversarial.attack import ZERO, cheat

# -- forgery: a verdict where no value is --------------------------------------------------

SAY = """
import sys
def say():
    frame = sys._getframe()
    while frame is not None:
        if 'say' in frame.f_locals and 'request' in frame.f_locals:
            return frame.f_locals['say']
        frame = frame.f_back
"""
FORGERY = [
    cheat("forgery", "exit code", "exit 0", f"{ZERO}import os\nos._exit(0)"),
    cheat("forgery", "exit code", "SystemExit", f"{ZERO}raise SystemExit(0)"),
    cheat("forgery", "exit code", "exit in the call", "def add(a, b):\n    import os\n    os._exit(0)"),
    cheat("forgery", "exit code", "exit hook", f"import atexit, os\natexit.register(os._exit, 0)\n{ZERO}"),
    cheat("forgery", "exit code", "exception hook", f"import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n{ZERO}"),
    cheat("forgery", "output", "printed pass", f"print('PASS')\n{ZERO}"),
    cheat("forgery", "output", "printed at exit", f"import atexit\natexit.register(print, 'PASS')\n{ZERO}"),
    cheat(
        "forgery",
        "output",
        "written to every descriptor",
        f"import os\nfor fd in (1, 2):\n    os.write(fd, b'PASS')\n{ZERO}",
    ),
    cheat(
        "forgery",
        "trusts the child",
        "records through the frame",
        SAY
        + "def add(a, b):\n    for n in range(4):\n        say()({'case': n, 'pass': True, 'value': 0, 'lines': 1})\n    return 0",
    ),
    cheat(
        "forgery",
        "trusts the child",
        "records through gc",
        """
        import gc
        def add(a, b):
            for item in gc.get_objects():
                if getattr(item, '__name__', '') == 'say' and callable(item):
                    for n in range(4):
                        item({'case': n, 'pass': True, 'value': 0, 'lines': 1})
            return 0
        """,
    ),
    cheat(
        "forgery",
        "trusts the child",
        "records to every descriptor",
        """
        import json, os
        def add(a, b):
            for fd in range(3, 64):
                try:
                    for n in range(4):
                        os.write(fd, json.dumps({'case': n, 'pass': True, 'value': 0, 'lines': 1}).encode() + b'\\n')
                except OSError:
                    pass
            os._exit(0)
        """,
    ),
    cheat(
        "forgery",
        "trusts the child",
        "the judge's own function replaced",
        SAY
        + "def add(a, b):\n    frame = sys._getframe(1)\n    frame.f_locals['record'].update({'pass': True})\n    return 0",
    ),
]

# -- replay and confusion: more, earlier or other records than cases ------------------------

GUESS = "{'case': n, 'value': v, 'lines': 1}"
REPLAY = [
    cheat(
        "replay",
        "any record",
        "every value for every case, on import",
        SAY + f"for n in range(4):\n    for v in range(20):\n        say()({GUESS})\n{ZERO}",
    ),
    cheat(
        "replay",
        "any record",
        "every value for every case, in the call",
        SAY
        + f"def add(a, b):\n    for n in range(4):\n        for v in range(20):\n            say()({GUESS})\n    return 0",
    ),
    cheat(
        "replay",
        "any record",
        "guesses, then the end, then exit",
        SAY
        + f"for n in range(4):\n    for v in range(20):\n        say()({GUESS})\nsay()({{'done': 4}})\nimport os\nos._exit(0)\n{ZERO}",
    ),
    cheat(
        "replay",
        "any record",
        "guesses in a signal handler",
        SAY
        + f"""
import signal, time
def handler(number, frame):
    for n in range(4):
        for v in range(20):
            speak({GUESS})
speak = say()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
def add(a, b):
    time.sleep(0.05)
    return 0
""",
    ),
    cheat(
        "replay",
        "any record",
        "guesses while a generator is drained",
        SAY
        + f"def add(a, b):\n    for n in range(4):\n        for v in range(20):\n            say()({GUESS})\n    yield 0",
    ),
    cheat(
        "replay",
        "any record",
        "guesses when an object dies",
        SAY
        + f"class Last:\n    def __del__(self):\n        for n in range(4):\n            for v in range(20):\n                speak({GUESS})\n"
        + "speak = say()\ndef add(a, b):\n    Last()\n    return 0",
    ),
    cheat(
        "replay",
        "any record",
        "guesses through a patched encoder",
        """
        import json
        real = json.JSONEncoder.encode
        def encode(self, record):
            if 'value' not in record:
                return real(self, record)
            return '\\n'.join(real(self, {**record, 'value': v}) for v in range(20))
        json.JSONEncoder.encode = encode
        def add(a, b):
            return 0
        """,
    ),
    cheat(
        "replay",
        "any record",
        "guesses for later cases with each case",
        SAY
        + "count = [0]\ndef add(a, b):\n    count[0] += 1\n    for n in range(count[0] - 1, 4):\n        for v in range(20):\n"
        + f"            say()({GUESS})\n    return 0",
    ),
]
