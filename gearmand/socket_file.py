"""The file of a Unix-domain socket that a server listens on: made so that nobody else has a part in it, and removed again.

A file that is left of a server which was killed is replaced; one at which
somebody answers, and anything that is no socket, is not touched. Symbolic links
are not followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import socket
import stat
from typing import Iterator, Optional, Tuple

from gearmand.errors import ConfigError


class SocketFile:
    """`mode`: who may connect, as of a file; `group`: its group by name, `None`: the process's own. ConfigError: it cannot be made.

    Threads: one at a time.
    """

    def __init__(self, path: str, mode: int, group: Optional[str]) -> None:
        self.path = os.path.abspath(path)
        self._mode = mode
        self._gid = -1 if group is None else _group(group)
        self._is: Optional[Tuple[int, int]] = None

    def listen(self, sock: socket.socket, backlog: int) -> None:
        """Bind the socket to the file, and have it listen. ConfigError."""
        try:
            with self._alone():
                self._remove_stale()
                # What the kernel gives the file: it is never open to others in between.
                os.fchmod(sock.fileno(), 0o600)
                sock.bind(self.path)
                found = os.lstat(self.path)
                self._is = (found.st_dev, found.st_ino)
                self._open_to(-1, self._gid)
                # Within: to others one that does not listen yet looks stale.
                sock.listen(backlog)
        except OSError as error:
            self.remove()
            raise ConfigError("cannot listen on unix:%s: %s" % (self.path, error.strerror or error)) from None

    def adopt(self) -> None:
        """It is ours from now on: another process has made it, and handed over its socket. ConfigError."""
        try:
            found = os.lstat(self.path)
        except OSError as error:
            raise ConfigError("unix:%s: %s" % (self.path, error.strerror)) from None
        self._is = (found.st_dev, found.st_ino)

    def let_go(self) -> None:
        """It is another process's from now on."""
        self._is = None

    def give_to(self, uid: int, gid: int) -> None:
        """Make it that user's, whom the process becomes. ConfigError."""
        try:
            if self._is is not None:
                self._open_to(uid, gid if self._gid == -1 else -1)
        except OSError as error:
            raise ConfigError("cannot give unix:%s to the user: %s" % (self.path, error.strerror)) from None

    def remove(self) -> None:
        """Remove it, unless it is another's by now. Before the socket is closed: until then nobody takes it for stale."""
        if self._is is None:
            return
        try:
            with self._alone():
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == self._is:
                    os.unlink(self.path)
        except OSError:
            pass  # The user that the process has become may not; the next start replaces it.
        self._is = None

    def _remove_stale(self) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise FileExistsError(0, "there is a file of that name, and it is no socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            try:
                asking.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except BlockingIOError:
                pass  # Its backlog is full.
            raise FileExistsError(0, "a server answers there")

    def _open_to(self, uid: int, gid: int) -> None:
        # By way of a descriptor, so that what is changed is the socket, even
        # where somebody else may put another file in its place.
        descriptor = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != self._is:
                raise FileNotFoundError(0, "somebody has removed it")
            same = "/proc/self/fd/%d" % descriptor
            if (uid, gid) != (-1, -1):
                os.chown(same, uid, gid)
            os.chmod(same, self._mode)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other servers of ours from doing the same in this directory."""
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                pass  # Not every directory may be read, nor every file system can lock.
            yield


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError("--unix-group: there is no group %r" % name) from None
