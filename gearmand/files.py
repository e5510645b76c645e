"""Files that a process opens while it may still be root, so that nobody else can choose which ones.

Whoever may write a directory can put a link to any other file there, in the
place of a log, a pid file or a socket. So in such a directory no link is
followed, and no file is taken that has another name elsewhere.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from typing import IO, Optional

from gearmand.errors import ConfigError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THERE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_log(path: str) -> IO[str]:
    """A file to append to. OSError: it cannot be opened, or is none that a root should write to."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    guarded = is_guarded(path)
    if not guarded:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP and not guarded:
            raise OSError(errno.ELOOP, "it is a link, in a directory that others than root may write") from None
        raise
    if not guarded and not _is_lone_file(descriptor):
        os.close(descriptor)
        raise OSError(errno.EPERM, "it is no ordinary file with one name, in a directory that others than root may write")
    return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def give(descriptor: int, user: pwd.struct_passwd) -> None:
    """Make an ordinary file a user's."""
    if _is_lone_file(descriptor):
        os.fchown(descriptor, user.pw_uid, user.pw_gid)


def _is_lone_file(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def is_guarded(path: str) -> bool:
    """Whether a link may be followed at this path: this process is no root, or nobody else can put one there."""
    return os.geteuid() != 0 or _is_roots_alone(os.path.dirname(path))


def _is_roots_alone(directory: str) -> bool:
    """Whether nobody but root can change what stands in a directory, or on the way to it."""
    at = os.path.realpath(directory)
    # On the way it is enough that they cannot remove what is root's.
    forgiven = 0
    while True:
        found = os.stat(at)
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & forgiven:
            return False
        if at == os.path.dirname(at):
            return True
        at, forgiven = os.path.dirname(at), stat.S_ISVTX


class PidFile:
    """Written once the process has its final id, removed at the end. ConfigError: it cannot be written.

    It takes the place of what stood there in one step, so nobody reads half
    of it, and a link that stood there is not followed.
    """

    def __init__(self, path: Optional[str]) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._new: Optional[str] = None
        self._descriptor: Optional[int] = None
        if self._path is not None:
            try:
                self._open(self._path)
            except OSError as error:
                raise ConfigError("--pid-file: cannot write %s: %s" % (path, error.strerror))

    def _open(self, path: str) -> None:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise ConfigError("--pid-file: %s is no ordinary file" % path)
        self._new = "%s.%d" % (path, os.getpid())
        try:
            if os.path.lexists(self._new):
                os.unlink(self._new)
            self._descriptor = os.open(self._new, _NEW, 0o644)
        except PermissionError:
            # Its directory is not ours to write; the file may be.
            self._new = None
            if not os.path.exists(path):
                raise
            self._descriptor = os.open(path, _THERE)
            if not _is_lone_file(self._descriptor):
                os.close(self._descriptor)
                raise ConfigError("--pid-file: %s is no ordinary file with one name" % path)

    def write(self, pid: Optional[int] = None) -> None:
        """Write this process's id, or that of another; as often as need be."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % (pid or os.getpid()), 0)
            if self._new is not None and self._path is not None:
                os.rename(self._new, self._path)
                self._new = None
        except OSError as error:
            self.remove()
            raise ConfigError("--pid-file: cannot write %s: %s" % (self._path, error.strerror))

    def remove(self) -> None:
        """Remove what this process has written, unless another has written its own id since."""
        if self._path is None or self._descriptor is None:
            return
        try:
            if self._new is not None:
                os.unlink(self._new)
            elif _content(self._path) == b"%d\n" % os.getpid():
                os.unlink(self._path)
        except OSError:
            pass  # The user that the process has become may not; the next start overwrites it.
        os.close(self._descriptor)
        self._descriptor = None


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 32)
    finally:
        os.close(descriptor)
