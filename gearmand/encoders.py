"""Workloads and results: Python objects to bytes and back.

An encoder is anything with these two methods:

    encode(object) -> bytes
    decode(bytes) -> object

Clients and workers take an encoder, or the name of one of these:

    "bytes"    bytes as they are; a str is encoded as UTF-8 (the default)
    "text"     str, as UTF-8
    "json"     what JSON can say
    "pickle"   any Python object. Whoever can send a job or a result can then run
               any code here, so it is never the default
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Union

from gearmand.errors import ConfigError


class BytesEncoder:
    def encode(self, value: Any) -> bytes:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if value is None:
            return b""
        raise TypeError("expected bytes, got %s: give an encoder (\"text\", \"json\", ...) for anything else" % type(value).__name__)

    def decode(self, data: bytes) -> bytes:
        return data


class TextEncoder:
    def encode(self, value: Any) -> bytes:
        if value is None:
            return b""
        if not isinstance(value, str):
            raise TypeError("expected str, got %s" % type(value).__name__)
        return value.encode("utf-8", "surrogateescape")

    def decode(self, data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")


class JsonEncoder:
    """An empty workload or result reads as `None`: clients of other languages send nothing where there is nothing."""

    def encode(self, value: Any) -> bytes:
        import json

        return json.dumps(value, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> Any:
        import json

        return json.loads(data) if data else None


class PickleEncoder:
    def encode(self, value: Any) -> bytes:
        import pickle

        return pickle.dumps(value, protocol=4)

    def decode(self, data: bytes) -> Any:
        import pickle

        return pickle.loads(data) if data else None


BY_NAME: Dict[str, Callable[[], Any]] = {
    "bytes": BytesEncoder,
    "text": TextEncoder,
    "json": JsonEncoder,
    "pickle": PickleEncoder,
}


def encoder_of(encoder: Union[None, str, Any]) -> Any:
    """The encoder itself, of that name, or for bytes where it is `None`. ConfigError: there is none."""
    if encoder is None:
        encoder = "bytes"
    if isinstance(encoder, str):
        if encoder not in BY_NAME:
            raise ConfigError("there is no encoder %r: expected one of %s, or an object" % (encoder, ", ".join(BY_NAME)))
        return BY_NAME[encoder]()
    if not (callable(getattr(encoder, "encode", None)) and callable(getattr(encoder, "decode", None))):
        raise ConfigError("%r is no encoder: it needs the methods encode(object) -> bytes and decode(bytes) -> object" % (encoder,))
    return encoder
