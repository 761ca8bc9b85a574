"""The secret key of an installation. It is made once and kept in the data folder."""

import os
import secrets
import tempfile
from pathlib import Path


def read_or_create(path: Path) -> str:
    """Return the key in `path`. The first call makes it (mode 0600).

    Web processes and workers may call this at the same moment. link(2) puts a complete file at `path` and fails for all
    but the first process, so every process reads the same key.

    Raises OSError when the folder holds no key and can't be written to.
    """
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secret-key-")  # with mode 0600
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
