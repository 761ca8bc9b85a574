"""What the kernel knows of processes."""

import ctypes
import functools
import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
CLONE_FS = 0x200  # unshare(2)


@functools.cache
def host_id() -> str:
    """Where pids mean the same: the host's name, this boot of it, and the pid namespace (containers)."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot.read_text().strip()[:8]} {namespace.stat().st_ino}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/[pid]/stat after the command's name, which may hold blanks: state first (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def born(pid: int) -> int:
    """When a process started, in the kernel's ticks since boot. Raises OSError."""
    return int(_stat(pid)[19])


def is_alive(pid: int, born_at: int) -> bool | None:
    """Whether this very process can still do anything: a zombie can't, and a pid may have been given to another.

    None for a process that is there, but whose data is hidden from this user (proc(5), hidepid).
    """
    try:
        fields = _stat(pid)
    except OSError:
        return None if _is_hidden(pid) else False
    return fields[0] not in ("Z", "X") and int(fields[19]) == born_at


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True  # of the same user, with more rights; or no descriptor was left to look with


def has_ended(pid: int) -> bool:
    """Whether a child of this process is gone, or a zombie."""
    try:
        return _stat(pid)[0] in ("Z", "X")
    except OSError:
        return True


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by SIGSTOP or a debugger."""
    try:
        return _stat(pid)[0] in ("T", "t")
    except OSError:
        return False


def is_runnable(thread: int) -> bool:
    """Whether a thread of this process (its native id) runs, or waits for a processor."""
    try:
        return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:
        return False


def can_unshare_directory() -> bool:
    """Whether a thread may have a directory and a umask of its own: a container may forbid it."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(unshare_directory()))  # which ends: it changes nothing here
    thread.start()
    thread.join()
    return answers == [True]


def unshare_directory() -> bool:
    """Give the calling thread a directory and a umask of its own; return whether that was allowed."""
    return bool(ctypes.CDLL(None).unshare(CLONE_FS) == 0)


def adopt_orphans() -> None:
    """Have the descendants of this process whose parents die become its children, not init's."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The pids of this process's children, zombies too."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(_stat(int(process.name))[1]) == os.getpid():
                found.add(int(process.name))
    return found


def kill_orphans(own: set[int]) -> bool:
    """Kill the children that are not this process's own: it has adopted them. Return whether there were any.

    If there were, look again: their children will be this process's next.
    """
    orphans = children() - own
    for pid in orphans:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
    return bool(orphans)


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies, or end it now when that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
