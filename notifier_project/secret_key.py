"""The secret key of an installation: made once, kept in the data folder."""

import os
import secrets
import tempfile
from pathlib import Path


def read_or_create(path: Path) -> str:
    """Return the key in `path`; on the first call ever, make one (mode 0600).

    Web and workers may call this at the same moment, in any order: a complete file appears under `path`
    by link(2), which fails for all but the first, so that every process reads the same key.

    Raises OSError when the folder can't be written to and holds no key yet.
    """
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secret-key-")  # 0600 by mkstemp
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(50))
            file.flush()
            os.fsync(handle)  # a power cut must not leave an empty key
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    return path.read_text().strip()
