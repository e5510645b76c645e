"""Certificates for tests, made by the program openssl when they are first asked for."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile

import pytest

from gearmand import Tls

HOSTS = "subjectAltName=DNS:localhost,IP:127.0.0.1"
CA = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")


class Certificates:
    """`path(name)`: of a file in the directory. Those of `make` are there, and the rest as it is made."""

    def __init__(self, directory):
        self.directory = directory
        self._openssl("req", "-x509", *_key("ca"), "-days", "3650", *CA, "-subj", "/CN=a CA", "-out", self.path("ca.pem"))
        self._openssl("req", "-x509", *_key("other-ca"), "-days", "3650", *CA, "-subj", "/CN=another CA", "-out", self.path("other-ca.pem"))
        self.make("server", "server", HOSTS)
        self.make("nameless", "nameless", "basicConstraints=CA:FALSE")
        self.make("client", "worker 1", "basicConstraints=CA:FALSE")
        self.make("stranger", "stranger", "basicConstraints=CA:FALSE", ca="other-ca")
        self._openssl("pkey", "-in", self.path("server.key"), "-aes128", "-passout", "pass:secret", "-out", self.path("encrypted.key"))
        with open(self.path("both.pem"), "w") as both:
            both.write(self.read("server.key") + self.read("server.pem"))
        with open(self.path("garbage"), "w") as garbage:
            garbage.write("nothing of use\n")
        with open(self.path("broken.pem"), "w") as broken:
            broken.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    def path(self, name):
        return os.path.join(self.directory, name)

    def read(self, name):
        with open(self.path(name)) as file:
            return file.read()

    def make(self, name, common_name, extension, ca="ca"):
        """NAME.pem and NAME.key."""
        request, extensions = self.path(name + ".csr"), self.path(name + ".ext")
        with open(extensions, "w") as file:
            file.write("%s\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n" % extension)
        self._openssl("req", *_key(name), "-subj", "/O=tests/CN=" + common_name, "-out", request)
        self._openssl(
            "x509", "-req", "-in", request, "-days", "3650", "-CA", self.path(ca + ".pem"), "-CAkey", self.path(ca + ".key"),
            "-CAcreateserial", "-extfile", extensions, "-out", self.path(name + ".pem"),
        )  # fmt: skip

    def _openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    # -- for the two ends ----------------------------------------------------------

    @property
    def of_server(self):
        """Options of a server that asks for no certificate."""
        return {"ssl_certificate": self.path("server.pem"), "ssl_key": self.path("server.key")}

    @property
    def of_strict_server(self):
        return {**self.of_server, "ssl_ca_file": self.path("ca.pem")}

    @property
    def tls(self):
        """For a client, or a worker, that shows one."""
        return Tls(self.path("ca.pem"), self.path("client.pem"), self.path("client.key"))


def _key(name):
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key")


def certificates():
    """The same for all tests of a run. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no program openssl to make certificates with")
    return _made()


@functools.lru_cache(None)
def _made():
    import atexit

    directory = tempfile.mkdtemp(prefix="gearmand-certificates-")
    atexit.register(shutil.rmtree, directory, True)
    return Certificates(directory)
