"""The id of a data folder's journal, in a file of its own: a journal that was deleted and begun again keeps the id."""

import os
import re
from pathlib import Path
from uuid import uuid4


def read_or_make_id(path: Path) -> str:
    """The 32 hexadecimal digits in this file, which is made when it does not exist. Raises OSError."""
    found = read_id(path)
    if found:
        return found
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    temporary.write_text(f"{uuid4().hex}\n")
    try:
        try:
            os.link(temporary, path)
        except OSError:
            if read_id(path) in (None, ""):  # the file holds no id, or the file system has no hard links
                os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return read_or_make_id(path)


def read_id(path: Path) -> str | None:
    """The id in this file; None when the file does not exist, "" when it holds something else. Raises OSError."""
    try:
        text = path.read_text("ascii", errors="replace")
    except FileNotFoundError:
        return None
    return text.strip() if re.fullmatch(r"[0-9a-f]{32}\n?", text) else ""
