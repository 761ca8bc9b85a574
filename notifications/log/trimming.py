"""What the database has to say before the journal may forget a write, and before an attempt may write after that."""

from logging import getLogger
from weakref import WeakKeyDictionary

from notifications.log.journal import Decide, Journal
from notifications.log.journal_id import read_or_make_id
from notifications.log.protocols import Attempt, AttemptLostError, Database
from notifications.log.records import NO_DATABASE

logger = getLogger(__name__)


class Trimming:
    """Trims a journal when it is overgrown. Without a database, its writes are remembered for good."""

    def __init__(self, journal: Journal, database: Database | None) -> None:
        self.database_id = NO_DATABASE  # until `name_database`
        self._journal = journal
        self._database = database
        self._vouched: WeakKeyDictionary[Attempt, int] = WeakKeyDictionary()  # the trims before which each was vouched for

    def name_database(self) -> None:
        """Ask the database for its name, unless it is known. Raises what the database raises."""
        # Where the database would wait for the caller, it is not asked: this write is remembered for good.
        if self._database and self.database_id == NO_DATABASE and not self._database.is_ours_alone():
            self.database_id = self._database.id_for(self._journal_id())

    def vouch(self, attempt: Attempt) -> None:
        """Before an attempt writes whose task was claimed before the last trim, ask whether it still holds the task.

        Meanwhile another worker may have ended the task, and the trim may have dropped what that worker wrote. Raises
        AttemptLostError.
        """
        trims = self._journal.known.trims
        if self._vouched.get(attempt, -1) == trims:
            return
        if not attempt.is_held():
            raise AttemptLostError("This attempt was taken for dead, and its task was given to another worker.")
        self._vouched[attempt] = trims

    def trim(self, decide: Decide) -> None:
        """Trim the overgrown journal, unless the database would wait for the caller. An error in trimming is logged."""
        if not self._database or self._database.is_ours_alone():
            return
        journal = self._journal
        journal.overgrown = False
        try:
            ended = self._database.ended(journal.tasks_of(self.database_id))
            # Before the trim: a database whose number is older than the journal's is a restored copy from before it.
            number = self._database.note_trim(self._journal_id(), journal.known.trims + 1)
            journal.trim(number, self.database_id, ended, decide)
        except Exception:
            logger.exception("The journal %s could not be trimmed; it will be tried again", journal.path)
        finally:
            journal.let_go()

    def forgotten_trim(self) -> int:
        """The number of a trim that the database has forgotten, since it was restored from an older copy.

        0 when it has not. The answer is given once. The journal must have been read.
        """
        trims = self._journal.known.databases.get(self.database_id, 0)
        return trims if trims and self._database and self._database.catch_up(self._journal_id(), trims) else 0

    def _journal_id(self) -> str:
        return read_or_make_id(self._journal.path.with_name("id"))
