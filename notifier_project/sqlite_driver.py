"""Has Django use the SQLite that the package pysqlite3 brings along, where it does, instead of the one that Python came with.

That one is mostly the system's, and mostly older than 3.51.3, which mended the "WAL-reset bug": a commit that comes in
the very instant of a checkpoint may be lost (https://www.sqlite.org/wal.html#walresetbug). For where there is no such
package there is a system check: durable_queue/checks.py.
"""

import sys

try:
    import pysqlite3
except ImportError:
    pass
else:
    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
