"""notifier_project/access/: the file of tokens, and the rate of a client's requests."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from notifier_project.access import rate, tokens
from notifier_project.access.lookout import Lookout
from notifier_project.access.proxies import Proxies
from notifier_project.access.rate import RateLimit, client_of
from notifier_project.access.scopes import TokenScope
from notifier_project.access.tokens import TokensError, TokensFile, read
from tests.support import selection

pytestmark = selection.once

SECRET = "5eCret-._~+/abc=="  # noqa: S105


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


# The file.


def test_file__a_line_each(file: Path) -> None:
    file.write_text(f"\ufeff# ours\n\nalice {SECRET} write,read # until May\n  bob\tother  manage\r\n#carol x write\n")
    known = read(file)
    alice, bob = known.find(SECRET), known.find("other")
    assert alice
    assert bob
    assert (alice.name, alice.scopes) == ("alice", frozenset({TokenScope.WRITE, TokenScope.READ}))
    assert (bob.name, bob.scopes) == ("bob", frozenset({TokenScope.MANAGE}))
    for text in ("", "x", "alice", SECRET[:-1], SECRET.lower(), "\udcff"):
        assert known.find(text) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"alice {SECRET}", "line 2: write a name"),
        (f"alice {SECRET} write read", "line 2: write a name"),
        (f"alice {SECRET} write,", "line 2: the scopes are write, read, manage"),
        (f"alice {SECRET} Write", "line 2: the scopes are"),
        (f"alice {SECRET}% write", "line 2: the token has other"),
        (f"bob {SECRET} write", "line 2: another line has the same name"),
        (f"{'a' * 101} {SECRET} write", "line 2: the name is longer"),
        (f"anonymous {SECRET} write", "line 2: anonymous is the name of those"),
        ("alice first write", "line 2: another line has the same name or token"),
    ],
    ids=str,
)
def test_file__broken_line(file: Path, line: str, said: str) -> None:
    file.write_text(f"bob first read\n{line}\n")
    with pytest.raises(TokensError) as error:
        read(file)
    assert str(error.value).startswith(said)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"alice \xff write", b"alice token write\n" + b"#" * (1 << 20)])
def test_file__that_is_none(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(TokensError):
        read(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_file__of_others(file: Path, mode: int) -> None:
    file.write_text("alice token write")
    file.chmod(mode)
    with pytest.raises(TokensError, match="chmod 600"):
        read(file)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: None], ids=["a folder", "a FIFO", "missing"])
def test_file__that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "other")
    with pytest.raises(TokensError):
        read(tmp_path / "other")


def test_file__that_changes(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be read changes nothing, and is said once; a token that is taken away is one no more."""

    def knows(text: str) -> bool:
        held._look()
        known = held.current()
        return known is not None and known.find(text) is not None

    file.write_text("alice first write")
    held = TokensFile(file)
    assert knows("first")
    file.write_text("alice second write")
    assert knows("second")
    assert not knows("first")
    file.unlink()
    for _ in range(3):
        assert knows("second")
    file.touch(mode=0o600)
    file.write_text("alice third-token nonsense")
    for _ in range(3):
        assert knows("second")
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "No such file" in caplog.messages[0]
    assert "line 1" in caplog.messages[1]
    file.write_text("bob third-token manage")
    assert knows("third-token")
    assert not knows("second")
    assert "can be read again" in caplog.messages[2]
    file.chmod(0o644)
    assert knows("third-token")
    assert not any("third" in message or "second" in message for message in caplog.messages)


def test_file__that_has_changed_before_the_first_request(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may wait for it for hours."""
    monkeypatch.setattr(Lookout, "begin", lambda _: None)
    file.write_text("alice first write")
    held = TokensFile(file)
    file.write_text("alice second write")
    known = held.current()
    assert known
    assert known.find("second")
    assert not known.find("first")


def test_file__is_not_read_again_without_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("alice first write")
    held = TokensFile(file)
    readings: list[Path] = []
    monkeypatch.setattr(tokens, "read", readings.append)
    for _ in range(3):
        held._look()
    assert not readings


# The rate.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock on."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


@pytest.mark.parametrize(
    ("text", "processes", "burst", "pause"),
    [("10/s", 1, 10, 0.1), ("10/s", 2, 5, 0.2), ("60/m", 1, 60, 1.0), ("1/s", 4, 1, 4.0), ("1/h", 1, 1, 3600.0)],
)
def test_rate__share_of_a_process(clock: Callable[[float], None], text: str, processes: int, burst: int, pause: float) -> None:
    limit = RateLimit(text, processes)
    for _ in range(2):
        assert [limit.wait("alice") for _ in range(burst)] == [0] * burst
        assert 0 < limit.wait("alice") <= pause + 1
        assert limit.wait("bob") == 0
        clock(pause * 1.001)
        assert limit.wait("alice") == 0
        assert limit.wait("alice") > 0
        clock(pause * (burst + 1))


def test_rate__a_million_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MOST", 1000)
    limit = RateLimit("1/h", 1)
    for number in range(20_000):
        assert limit.wait(str(number)) == 0
        assert len(limit._recent) + len(limit._older) <= 2000
    assert limit.wait("19999") > 0


def test_rate__whom_it_counts_together() -> None:
    assert client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")
    assert client_of(":") == ":"


# Proxies.


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
        ("::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "::ffff:198.51.100.7, ::ffff:127.0.0.1", "198.51.100.7"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("2001:db8::1", None, "2001:db8::1"),
    ],
)
def test_proxies__ipv4_written_as_ipv6(peer: str, said: str | None, client: str) -> None:
    """All such addresses are in one network of 64 bits, and would have one share of the limit."""
    headers = [(b"x-forwarded-for", said.encode())] if said else []
    scope = {"headers": headers, "client": (peer, 5)}
    Proxies(["127.0.0.1"]).apply(scope)
    assert scope["client"][0] == client
