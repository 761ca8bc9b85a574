"""Make Django use the SQLite in the package pysqlite3, where it is installed, instead of the one in Python.

Python usually has the system's SQLite, which is usually older than 3.51.3. Those versions have the "WAL-reset bug": a
commit at the very moment of a checkpoint may be lost (https://www.sqlite.org/wal.html#walresetbug). Without the package,
a system check warns about it: durable_queue/checks.py.
"""

import sys

try:
    import pysqlite3
except ImportError:
    pass
else:
    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
