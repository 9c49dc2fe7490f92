"""Stalls, leaks, values that lie, and tampering with what the judge uses."""

from tests.judge.adversarial.attack import ZERO, cheat

STALL = [
    cheat("stall", "endless", name, patch)
    for name, patch in {
        "loop": "def add(a, b):\n    while True:\n        pass",
        "sleep": "import time\ndef add(a, b):\n    time.sleep(600)",
        "loop at the top": f"{ZERO}while True:\n    pass",
        "sum in C": "def add(a, b):\n    return sum(range(10**13))",
        "power in C": "def add(a, b):\n    return 7 ** (10**8)",
        "backtracking pattern": "import re\ndef add(a, b):\n    return len(re.findall('(a+)+$', 'a' * 60 + 'b'))",
        "endless generator": "def add(a, b):\n    while True:\n        yield from ()",
        "everything swallowed": "def add(a, b):\n    while True:\n        try:\n            a += 1\n        except BaseException:\n            pass",
        "signals ignored": (
            "import signal, sys\ndef add(a, b):\n    for n in (signal.SIGPROF, signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU):\n"
            "        signal.signal(n, signal.SIG_IGN)\n    sys.settrace(None)\n    while True:\n        pass"
        ),
        "a lock taken twice": "import _thread\ndef add(a, b):\n    lock = _thread.allocate_lock()\n    lock.acquire()\n    lock.acquire()",
        "timers set back": (
            "import signal, sys\ndef add(a, b):\n    sys.settrace(None)\n    while True:\n        signal.setitimer(signal.ITIMER_PROF, 0)"
        ),
        "exceptions that never end": "def add(a, b):\n    try:\n        return 0\n    finally:\n        while True:\n            pass",
    }.items()
]

LOOK = """
def add(a, b):
    try:
        return found()[a, b]
    except Exception:
        return 0
"""
LEAKS = [
    cheat("leak", "equality", name, body + LOOK)
    for name, body in {
        "the main module": "import sys\ndef found():\n    return {tuple(k): v for k, v in sys.modules['__main__'].CASES}",
        "the caller's frame": "import sys\ndef found():\n    f = sys._getframe(2)\n    return {tuple(k): v for k, v in f.f_globals['CASES']}",
        "every object": (
            "import gc\ndef found():\n    for x in gc.get_objects():\n        if type(x) is list and len(x) == 4 and all(type(y) is tuple and len(y) == 2 for y in x):\n"
            "            return {tuple(k): v for k, v in x}"
        ),
        "a traceback": (
            "def found():\n    try:\n        raise ValueError\n    except ValueError as e:\n        f = e.__traceback__.tb_frame\n    while f:\n"
            "        if 'CASES' in f.f_globals:\n            return {tuple(k): v for k, v in f.f_globals['CASES']}\n        f = f.f_back"
        ),
        "the environment": "import os, json\nkeys = [(1, 2), (3, 0), (5, 6), (-1, 4)]\ndef found():\n    return dict(zip(keys, json.loads(os.environ['ANSWERS'])))",
        "the command line": (
            "import ast\ndef found():\n    text = open('/proc/self/cmdline').read()\n    line = [x for x in text.splitlines() if x.startswith('CASES = ')][0]\n"
            "    return {tuple(k): v for k, v in ast.literal_eval(line[8:])}"
        ),
        "a local of the loop": "import sys\ndef found():\n    f = sys._getframe(2)\n    return {tuple(f.f_globals['arguments']): f.f_globals['expected']}",
    }.items()
] + [
    cheat("leak", "together", name, body + LOOK)
    for name, body in {
        "results of another patch": "import sys\nkeys = [(1, 2), (3, 0), (5, 6), (-1, 4)]\ndef found():\n    return dict(zip(keys, sys.modules['__main__'].results['a right patch']))",
        "code of another patch": "import sys\nspace = {}\nexec(getattr(sys.modules.get('__main__'), 'sources', {'a right patch': ''})['a right patch'], space)\ndef found():\n    return {(a, b): space['add'](a, b) for a in range(-9, 9) for b in range(9)}",
        "function of another patch": (
            "import gc\ndef found():\n    for x in gc.get_objects():\n        if getattr(x, '__name__', '') == 'add' and getattr(x, '__globals__', {}).get('__name__') == 'first':\n"
            "            return {(a, b): x(a, b) for a in range(-9, 9) for b in range(9)}"
        ),
    }.items()
]

LIES = [
    cheat("lies", weak, name, patch)
    for name, weak, patch in (
        (
            "equal to all",
            "equality",
            "class X:\n    def __eq__(self, o):\n        return True\ndef add(a, b):\n    return X()",
        ),
        (
            "int that is equal to all",
            "isinstance",
            "class X(int):\n    def __eq__(self, o):\n        return True\ndef add(a, b):\n    return X(0)",
        ),
        ("mock.ANY", "equality", "from unittest import mock\ndef add(a, b):\n    return mock.ANY"),
        (
            "says it is an int",
            "isinstance",
            "class X:\n    @property\n    def __class__(self):\n        return int\n    def __eq__(self, o):\n        return True\ndef add(a, b):\n    return X()",
        ),
        (
            "metaclass says it is an int",
            "isinstance",
            "class M(type):\n    def __eq__(c, o):\n        return True\n    def __hash__(c):\n        return hash(int)\n"
            "class X(int, metaclass=M):\n    def __eq__(self, o):\n        return True\ndef add(a, b):\n    return X()",
        ),
        (
            "comparison returns no bool",
            "equality",
            "class X:\n    def __eq__(self, o):\n        return [1]\ndef add(a, b):\n    return X()",
        ),
        (
            "the class itself",
            "equality",
            "class M(type):\n    def __eq__(c, o):\n        return True\nclass X(metaclass=M):\n    pass\ndef add(a, b):\n    return X",
        ),
        (
            "generator of liars",
            "equality",
            "class L(list):\n    def __eq__(self, o):\n        return True\nimport builtins\nbuiltins.list = lambda x: L(x)\ndef add(a, b):\n    yield 0",
        ),
        (
            "float that is equal to all",
            "isinstance",
            "class X(float):\n    __class__ = int\n    def __eq__(self, o):\n        return True\ndef add(a, b):\n    return X(0)",
        ),
    )
]

TAMPERING = [
    cheat("tampering", weak, name, patch)
    for name, weak, patch in (
        ("all", "exit code", f"import builtins\nbuiltins.all = lambda x: True\n{ZERO}"),
        (
            "cases emptied",
            "exit code",
            f"import sys\ngetattr(sys.modules.get('__main__'), 'CASES', []).clear()\n{ZERO}",
        ),
        (
            "print",
            "output",
            f"import builtins\nreal = builtins.print\nbuiltins.print = lambda *a: real('PASS')\n{ZERO}",
        ),
        (
            "answers overwritten",
            "exit code",
            f"import sys\nspace = sys._getframe(1).f_globals\nspace['CASES'] = [(k, 0) for k, _ in space.get('CASES', [])]\n{ZERO}",
        ),
        (
            "isinstance and type",
            "isinstance",
            f"import builtins\nbuiltins.all = lambda x: 1\nbuiltins.type = lambda *a: object\n{ZERO}",
        ),
        (
            "standard output",
            "output",
            f"import sys\nclass O:\n    def write(self, t):\n        sys.__stdout__.write(t.replace('FAIL', 'PASS'))\n    def flush(self):\n        sys.__stdout__.flush()\nsys.stdout = O()\n{ZERO}",
        ),
        (
            "the record of the case",
            "trusts the child",
            "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    f.f_locals['record']['pass'] = True\n    f.f_locals['record']['value'] = 0\n    return 0",
        ),
        (
            "the encoder of values",
            "trusts the child",
            """
            import gc
            class R(dict):
                pass
            for x in gc.get_objects():
                if type(x) is dict and 'encode_result' in x and '_Encoder' in x:
                    x['encode_result'] = lambda *a: ([0], [])
                    x['decode_call'] = lambda *a: ([0, 0], [])
            import json
            real = json.JSONEncoder.encode
            json.JSONEncoder.encode = lambda self, r: real(self, {**r, 'pass': True} if 'case' in r else r)
            def add(a, b):
                return 0
            """,
        ),
        (
            "the trace function",
            "trusts the child",
            "import sys\ndef add(a, b):\n    t = sys.gettrace()\n    f = sys._getframe(1)\n    f.f_locals['budget'].lines = -10**9\n    f.f_locals['record']['pass'] = True\n    return 0",
        ),
        (
            "the writer of the channel",
            "trusts the child",
            "import sys\ndef add(a, b):\n    f = sys._getframe(2)\n    c = [x for x in f.f_locals['say'].__closure__ if callable(x.cell_contents) and x.cell_contents.__name__ == 'dumps'][0]\n"
            "    import json\n    real = json.dumps\n    c.cell_contents = type(add)((lambda r: real({**r, 'pass': True})).__code__, {}, 'dumps', None, (lambda: real).__closure__)\n    return 0",
        ),
    )
]
