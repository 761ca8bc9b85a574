"""notifications/logfile.py: appends and replacements, on real files."""

from pathlib import Path

from notifications import logfile


def test_append__new_file(tmp_path: Path) -> None:
    logfile.append(tmp_path / "log.txt", "grüße\n".encode())
    assert (tmp_path / "log.txt").read_text("utf-8") == "grüße\n"
