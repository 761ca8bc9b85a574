"""Make and read payloads in django-q2's signed format, byte for byte. The key is derived once, not for each payload.

`django.core.signing` derives it for each value (django/utils/crypto.py, `salted_hmac`), behind five layers of calls.
docs/tried.md tells what that costs.
"""

import hashlib
import pickle
import time
from binascii import a2b_base64, b2a_base64
from hmac import compare_digest
from typing import Any

from django.core.signing import b62_encode
from django_q.conf import Conf
from django_q.core_signing import BadSignature
from django_q.signing import SignedPackage

__all__ = ["BadSignature", "dumps", "loads"]

_KEY = hashlib.sha256(f"{Conf.PREFIX}signer{Conf.SECRET_KEY}".encode()).digest()
# HMAC's two hashes (RFC 2104, section 2), after they have taken in the key.
_INNER, _OUTER = (hashlib.sha256(bytes(byte ^ pad for byte in _KEY.ljust(64, b"\0"))) for pad in (0x36, 0x5C))

_PROTOCOL = 5  # pickle's highest, hence django-q2's. Another one may put the id elsewhere: durable_queue/store/lookup.py

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


def dumps(task: dict[str, Any]) -> str:
    """Pickle and sign a task. Never compress it, whatever `Q_CLUSTER` says: the index would not find its id."""
    value = b"%b:%b" % (_base64(pickle.dumps(task, _PROTOCOL)), b62_encode(int(time.time())).encode())
    return (b"%b:%b" % (value, _signature(value))).decode()


def loads(payload: str) -> Any:
    """Check a payload's signature, then unpickle it. Raises BadSignature, and any exception of unpickling."""
    if payload.startswith("."):  # compressed
        return SignedPackage.loads(payload)
    value, _, signature = payload.encode().rpartition(b":")
    if not compare_digest(signature, _signature(value)):
        raise BadSignature(f'Signature "{signature.decode()}" does not match')
    pickled = value.partition(b":")[0].translate(_FROM_URL)
    return pickle.loads(a2b_base64(pickled + b"=="))  # noqa: S301 - its signature shows that it is ours


def _signature(value: bytes) -> bytes:
    inner, outer = _INNER.copy(), _OUTER.copy()
    inner.update(value)
    outer.update(inner.digest())
    return _base64(outer.digest())


def _base64(content: bytes) -> bytes:
    """Base64 for URLs, without padding (RFC 4648, section 5): as `django.core.signing.b64_encode`."""
    return b2a_base64(content, newline=False).translate(_TO_URL, b"=")
