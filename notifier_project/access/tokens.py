"""The file of tokens: who may do what. It is read again when it changes; while it can't be read, the old tokens hold.

A line each: a name, a token, and scopes with commas between (write,read,manage); blanks between the three.
`#` begins a comment.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from logging import getLogger
from pathlib import Path

from notifier_project.access.lookout import Lookout
from notifier_project.access.scopes import TokenScope

logger = getLogger(__name__)

LARGEST = 1 << 20  # bytes of the file
LONGEST_NAME = 100
FIELDS = 3
ANONYMOUS = "anonymous"  # whoever sends no token
# What can be sent (RFC 6750, section 2.1).
SENDABLE = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class TokensError(Exception):
    """The file can't be used. The message never has a token."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token, without its text."""

    name: str
    digest: bytes  # of its text
    scopes: frozenset[TokenScope]


class Tokens:
    """The tokens of one reading."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._by_digest = {token.digest: token for token in tokens}

    def find(self, text: str) -> Token | None:
        """The token with this text. How long it takes tells nothing of any token: only digests are compared."""
        digest = _digest(text)
        found = self._by_digest.get(digest)
        return found if found and compare_digest(found.digest, digest) else None


def read(path: Path) -> Tokens:
    """Read the file. Raises TokensError with a reason for people."""
    return Tokens(_parse(_content(path)))


def _content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # it must not wait, for a FIFO
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise TokensError(f"{path} is no regular file")
        if found.st_mode & 0o077:
            raise TokensError(f"{path} can be read or changed by others: chmod 600 {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise TokensError(f"{path} is longer than 1 MB")
    return content


def _parse(content: bytes) -> list[Token]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise TokensError("the file is not UTF-8") from None
    tokens: dict[str, Token] = {}
    digests: set[bytes] = set()
    for number, fields in _fields(lines):
        token = _token(number, fields)
        if token.name in tokens or token.digest in digests:
            raise TokensError(f"line {number}: another line has the same name or token")
        tokens[token.name] = token
        digests.add(token.digest)
    if not tokens:
        raise TokensError("the file has no token")
    return list(tokens.values())


def _fields(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        fields = re.sub(r"(^|\s)#.*", "", line).split()
        if fields:
            yield number, fields


def _token(number: int, fields: list[str]) -> Token:
    if len(fields) != FIELDS:
        raise TokensError(f"line {number}: write a name, a token and its scopes, with blanks between")
    name, text, scopes = fields
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise TokensError(f"line {number}: the name is longer than {LONGEST_NAME} characters, or can't be printed")
    if name == ANONYMOUS:
        raise TokensError(f"line {number}: {ANONYMOUS} is the name of those without a token")
    if not SENDABLE.fullmatch(text):
        raise TokensError(f"line {number}: the token has other characters than letters, digits and -._~+/ (= at its end)")
    try:
        given = frozenset(map(TokenScope, scopes.split(",")))
    except ValueError:
        raise TokensError(f"line {number}: the scopes are {', '.join(TokenScope)}, with commas between") from None
    return Token(name=name, digest=_digest(text), scopes=given)


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


class TokensFile:
    """The tokens that hold now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()  # what the file was like when it was read last
        self._told = ""  # what was last said against it
        self._tokens: Tokens | None = None
        self._look()
        self._lookout = Lookout(self._look)

    def current(self) -> Tokens | None:
        """The tokens that hold; None: the file could not be read yet."""
        if not self._lookout.has_begun:
            self._look()  # nobody has since the process began, which may be long ago
            self._lookout.begin()
        return self._tokens

    def _look(self) -> None:
        before, self._seen = self._seen, _seen(self._path)
        if self._seen and self._seen == before and not self._told:
            return
        try:
            self._tokens = read(self._path)
        except TokensError as error:
            if self._told != (told := str(error)):
                self._told = told
                now = "the old ones hold" if self._tokens else "nobody has access"
                logger.error("NOTIFIER_TOKENS_FILE: the tokens can't be read, and %s: %s", now, told)
            return
        if self._told:
            self._told = ""
            logger.warning("NOTIFIER_TOKENS_FILE: the tokens can be read again")


def _seen(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
