"""Which data folder a log belongs to, by the journal of the folder."""

import stat
from pathlib import Path

from notifications.log import owner
from notifications.log.journal_id import read_id, read_or_make_id


def journal_owner(journal: Path) -> owner.Owner:
    """The journal as the owner file next to the log names it. Raises OSError."""
    name = read_or_make_id(journal.with_name("id"))
    return owner.Owner(journal=name, folder=str(journal.parent.parent.resolve()), inode=journal.parent.stat().st_ino)


def other_owner(log: Path, journal: Path) -> str | None:
    """The data folder of another journal from which the log is being written to at this moment. Changes nothing."""
    name = read_id(journal.with_name("id"))
    me = journal_owner(journal) if name else None
    log = log.resolve()
    found = owner.other_owner(log, me) if is_regular_or_absent(log) else None
    return found.folder if found else None


def is_regular_or_absent(path: Path) -> bool:
    """Whether a log at this path can have an owner."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
