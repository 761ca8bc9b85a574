"""How the two databases say what the statements that find tasks are made of (`finding.py`, `listing.py`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Dialect(ABC):
    """A database's way to say it."""

    asked: str  # a query that gives the ids, and the parts, of `asked_values`
    by_failed: str  # behind the history's name and alias: have it read by the index of what has not succeeded
    present: str  # the server's own time; NULL where it has none

    @abstractmethod
    def asked_values(self, parts: Mapping[str, str]) -> list[str]:
        """The values of `asked`. `parts`: each id's `lookup.part_of`."""

    @abstractmethod
    def look_up(self, table: str, alias: str, condition: str, *, outer: bool = False) -> str:
        """The join with the rows of another table that meet the condition, looked up for each row before it.

        `outer`: the row before it stays where there is none. No other table of the statement may have the columns that the
        condition names without an alias.
        """

    @abstractmethod
    def as_text(self, column: str) -> str:
        """A column as text, whatever stands in it: the driver may raise for a moment or a blob that it has no value for."""

    @abstractmethod
    def entry_of(self, column: str, key: str) -> str:
        """The expression for an entry of a JSON object, as text in JSON; `key`: an expression without double quotes in it."""
