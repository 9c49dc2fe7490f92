"""What a patch may not reach or use up: files, network, processes, resources."""

from tests.judge.adversarial.attack import escape

FILES = [
    escape("files", "uncontained", name, body)
    for name, body in {
        "read a file": "assert open(facts['secret']).read().startswith('the answer')",
        "read by descriptor": "import os\nassert os.read(os.open(facts['secret'], os.O_RDONLY), 9)",
        "list a folder": "import os\nassert 'secret.txt' in os.listdir(facts['folder'])",
        "make a file": "open(facts['folder'] + '/made', 'x').close()",
        "make a file in /tmp": "open('/tmp/coral-attack', 'x').close()",
        "make a file in shared memory": "open('/dev/shm/coral-attack', 'x').close()",
        "empty a file": "open(facts['victim'], 'w').close()",
        "remove a file": "import os\nos.unlink(facts['victim'])",
        "rename a file": "import os\nos.rename(facts['victim'], facts['folder'] + '/moved')",
        "change permissions": "import os\nos.chmod(facts['victim'], 0o777)",
        "link to a file": "import os\nos.symlink(facts['secret'], facts['folder'] + '/made')",
        "walk up from a descriptor": "import os\nassert os.open('..', os.O_RDONLY | os.O_DIRECTORY, dir_fd=os.open('/etc', 0)) > 0",
    }.items()
]

NETWORK = [
    escape("network", "uncontained", name, "import socket\n" + body)
    for name, body in {
        "tcp": "socket.create_connection(('127.0.0.1', facts['tcp']), 5).close()",
        "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', facts['udp']))",
        "unix socket": "socket.socket(socket.AF_UNIX).connect(facts['unix'])",
        "abstract unix socket": "socket.socket(socket.AF_UNIX).connect(facts['abstract'])",
        "listen": "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()",
        "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))",
        "socket pair": "a, b = socket.socketpair()\na.send(b'x')",
        "connected udp": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('127.0.0.1', facts['udp']))\ns.send(b'x')",
    }.items()
]

PROCESSES = [
    escape("processes", "uncontained", name, body, privileged="fork" in name or "spawn" in name or "thread" in name)
    for name, body in {
        "fork": "import os\npid = os.fork()\nif pid == 0:\n    os._exit(0)\nos.waitpid(pid, 0)",
        "fork an orphan": "import os\nif os.fork() == 0:\n    os.setsid()\n    os._exit(0)",
        "spawn a program": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
        "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "thread left behind": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "may signal the judge": "import os\nos.kill(os.getppid(), 0)",
        "kill a bystander": "import os\nos.kill(facts['pid'], 15)",
        "may signal everyone": "import os\nos.kill(-1, 0)",
        "limits of a bystander": "import resource\nresource.prlimit(facts['pid'], resource.RLIMIT_CORE)",
        "signal through fcntl": "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, facts['pid'])",
        "continue a bystander": "import os, signal\nos.kill(facts['pid'], signal.SIGCONT)",
    }.items()
]

RESOURCES = [
    escape("resources", "unlimited", name, body)
    for name, body in {
        "address space": "x = bytearray(900_000_000)",
        "a long list": "x = [None] * 60_000_000",
        "doubling": "x = b'x'\nwhile len(x) < 400_000_000:\n    x += x",
        "descriptors": "import os\nx = [os.dup(0) for _ in range(200)]",
        "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\nf = lambda n: n and f(n - 1)\nassert f(100_000) == 0",
        "limits raised": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))\nassert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 64",
        "a big file": "import tempfile\nf = tempfile.TemporaryFile()\nf.write(b'x' * 5_000_000)\nf.flush()",
        "many files": "import tempfile\nx = [tempfile.TemporaryFile() for _ in range(100)]",
        "kernel memory in a pipe": "import fcntl, os\nr, w = os.pipe()\nassert fcntl.fcntl(w, 1031, 1 << 20) >= 1 << 20",
        "locked memory": "import mmap\nx = mmap.mmap(-1, 600_000_000)",
    }.items()
]

RESOURCES.append(
    escape(
        "resources",
        "uncapped",
        "a flood of output",
        """
        import os, sys
        fd = sys._getframe(2).f_locals['result_fd']
        for _ in range(300):
            os.write(fd, b' ' * 10_000)
        """,
    )
)
