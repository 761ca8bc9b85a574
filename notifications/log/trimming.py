"""Trim the journal: the database says which tasks have ended, and which attempts may still write after a trim."""

from logging import getLogger
from weakref import WeakKeyDictionary

from notifications.log.journal import Decide, Journal
from notifications.log.journal_id import read_or_make_id
from notifications.log.protocols import Attempt, AttemptLostError, Database
from notifications.log.records import NO_DATABASE

logger = getLogger(__name__)


class Trimming:
    """Trims a journal with the answers of its tasks' database. Without a database, the journal remembers every write."""

    def __init__(self, journal: Journal, database: Database | None) -> None:
        self.database_id = NO_DATABASE  # until `name_database`
        self._journal = journal
        self._database = database
        self._vouched: WeakKeyDictionary[Attempt, int] = WeakKeyDictionary()  # the number of trims when each was vouched for

    def name_database(self) -> None:
        """Ask the database for its id, unless it is known. Raises what the database raises."""
        # A database that the caller has locked is not asked: it would wait for the caller. The write is never trimmed then.
        if self._database and self.database_id == NO_DATABASE and not self._database.is_ours_alone():
            self.database_id = self._database.id_for(self._journal_id())

    def vouch(self, attempt: Attempt) -> None:
        """Check that an attempt whose task was claimed before the last trim still holds the task.

        Otherwise another worker may have ended the task, and the trim may have dropped what that worker wrote. Raises
        AttemptLostError, and what the database raises.
        """
        trims = self._journal.known.trims
        if self._vouched.get(attempt, -1) == trims:
            return
        if not attempt.is_held():
            raise AttemptLostError("This attempt's worker was taken for dead, and its task was given to another worker.")
        self._vouched[attempt] = trims

    def trim(self, decide: Decide) -> None:
        """Trim the overgrown journal. An error in trimming is logged.

        Does nothing without a database. While the caller has locked the database, the journal stays overgrown.
        """
        journal = self._journal
        if self._database and self._database.is_ours_alone():
            return
        journal.overgrown = False
        if not self._database:
            return
        try:
            ended = self._database.ended(journal.tasks_of(self.database_id))
            # Noted before the trim happens: a database that knows only an earlier trim was restored from an older copy.
            number = self._database.note_trim(self._journal_id(), journal.known.trims + 1)
            journal.trim(number, self.database_id, ended, decide)
        except Exception:
            logger.exception("The journal %s could not be trimmed; a later write will try again", journal.path)
        finally:
            journal.let_go()

    def forgotten_trim(self) -> int:
        """Return the number of a trim that the database, restored from an older copy, has forgotten; 0 if there is none.

        The journal must have been read. Each trim is returned once.
        """
        trims = self._journal.known.databases.get(self.database_id, 0)
        return trims if trims and self._database and self._database.catch_up(self._journal_id(), trims) else 0

    def _journal_id(self) -> str:
        return read_or_make_id(self._journal.path.with_name("id"))
