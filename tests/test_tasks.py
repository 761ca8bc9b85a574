"""notifications/tasks.py: what a worker calls, and the bytes that it leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from notifications.tasks import write_log, write_notification
from tests.support import selection
from tests.support.processes import PROJECT


def test_write_notification__replaces_all_that_was_there(log_file: Path) -> None:
    log_file.write_text("a much longer text\nof two lines\n")
    write_notification("alice@example.com", message="some notification")
    assert log_file.read_bytes() == b"notification for alice@example.com: some notification"


def test_write_notification__without_a_message(log_file: Path) -> None:
    write_notification("alice@example.com")
    assert log_file.read_bytes() == b"notification for alice@example.com: "


def test_write_log__appends_and_adds_no_newline(log_file: Path) -> None:
    log_file.write_text("unfinished")
    write_log("message to 123456.qq.com\n")
    write_log("message to 123456.qq.com\n")
    assert log_file.read_bytes() == b"unfinishedmessage to 123456.qq.com\nmessage to 123456.qq.com\n"


def test_write_log__the_log_was_deleted_in_between(log_file: Path) -> None:
    write_log("first\n")
    log_file.unlink()
    write_log("second\n")
    assert log_file.read_text() == "second\n"


def test_write_log__the_folder_is_missing_and_comes_back(log_file: Path) -> None:
    folder = log_file.parent
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(FileNotFoundError):
        write_log("lost\n")
    away.rename(folder)
    write_log("kept\n")
    assert log_file.read_text() == "kept\n"


@selection.once
@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_writing__is_utf_8_whatever_the_locale(locale: str, log_file: Path) -> None:
    code = "import django; django.setup(); from notifications.tasks import *; "
    code += "write_notification('j\\xfcrgen'); write_log(' \\u4f60\\u597d \\U0001f600')"
    subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        env=os.environ | {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "NOTIFIER_LOG_FILE": str(log_file)},
        cwd=PROJECT,
        timeout=60,
        check=True,
    )
    assert log_file.read_bytes() == "notification for jürgen:  你好 😀".encode()
