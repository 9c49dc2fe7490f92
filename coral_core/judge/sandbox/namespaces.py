"""Namespaces around a whole zygote: entered once when it starts, so that a child costs no more.

`enter` uses the namespaces that this machine allows and returns their names. Containment does not depend on them (the
base layers are Landlock and seccomp); each adds a second barrier:

    user    capabilities of the zygote apply inside this namespace only, and are dropped right after
    net     no interface, not even loopback
    ipc     no shared memory or queues of others
    pid     no process outside can be named; all children die with the zygote
    mount   the standard library, read-only, is the whole file system. Without it a patch
            can learn names and sizes of files (`stat` is not covered by Landlock)

Standard library only: the zygote loads this file by its path.
"""

import contextlib
import ctypes
import os
import platform

LIBC = ctypes.CDLL(None, use_errno=True)
NEW = {"mount": 0x20000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
NAMES = ("user", "net", "ipc", "pid", "mount")
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
COVERED = ("/tmp", "/mnt", "/run", "/media", "/srv")
HIDDEN = ("site-packages", "dist-packages", "test")


def enter(control: int) -> list[str]:
    """Enter the namespaces that this machine allows. With `pid`, returns in a new process, whose parent waits for it.

    Args:
        control: Descriptor that only the innermost process may keep open.

    Returns:
        Names of the namespaces entered; empty when there is none.
    """
    uid, gid = os.getuid(), os.getgid()
    for names in (NAMES, NAMES[1:]):
        if LIBC.unshare(sum(NEW[name] for name in names)) == 0:
            break
    else:
        return []
    entered = [name for name in names if name != "mount"]
    if "user" in names:
        _map("/proc/self/setgroups", "deny")
        _map("/proc/self/uid_map", f"{uid} {uid} 1")
        _map("/proc/self/gid_map", f"{gid} {gid} 1")
    try:
        _only_the_standard_library()
        entered.append("mount")
    except OSError:
        pass  # it is a layer on top: what is missing is reported, not fatal
    inner = os.fork()
    if inner:
        os.close(control)
        os.waitpid(inner, 0)
        os._exit(0)
    return entered


def _map(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write(text)


def _only_the_standard_library() -> None:
    """Make a root that holds the standard library, read-only, and nothing else. Raises `OSError`."""
    library = os.path.dirname(os.__file__)
    handle = os.open(library, os.O_PATH)
    try:
        _mount(None, "/", None, MS_REC | MS_PRIVATE)
        root = next(path for path in COVERED if os.path.isdir(path))
        quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
        _mount("tmpfs", root, "tmpfs", quiet, "size=64k,mode=755")
        inside = root + library
        os.makedirs(inside)
        _mount(f"/proc/self/fd/{handle}", inside, None, MS_BIND | MS_REC)
        for name in HIDDEN:
            if os.path.isdir(os.path.join(inside, name)):
                _mount("tmpfs", os.path.join(inside, name), "tmpfs", quiet | MS_RDONLY, "size=4k")
        _mount(None, inside, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
        _mount(None, root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | quiet)
        os.chdir(root)
        if LIBC.syscall(PIVOT_ROOT[platform.machine()], b".", b".") != 0 or LIBC.umount2(b".", MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), "pivot_root")
        os.chdir("/")
    except (StopIteration, KeyError) as error:
        raise OSError(f"no place for a root of our own: {error}") from None
    finally:
        os.close(handle)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    if LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")
