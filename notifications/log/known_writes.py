"""The writes that stand in the log, as a process knows them from the journal's records."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator

from notifications.log.identity import FRESH, IDENTITY, TASK, Identity, tells_time
from notifications.log.records import (
    HEADER,
    KEPT,
    NEWEST,
    NO_TASK,
    PLACE,
    PLACES,
    Intent,
    header,
    newest,
    packed_settled,
    read_header,
)


class KnownWrites:
    """What a process has learned from settled records. Learning a record twice changes nothing."""

    def __init__(self) -> None:
        self.trims = -1  # how often the journal has been trimmed, as far as this process knows
        self.learned = 0.0  # when (monotonic) it learned that number
        self.databases: dict[bytes, int] = {}  # for each database, the last trim that dropped identities of its tasks
        self.written: dict[bytes, set[bytes]] = {}  # identities, by the database of their task
        self.places: dict[bytes, set[bytes]] = {}  # the same, as version 0.1 noted them
        self.newest = NO_TASK  # the newest task that has written, of the tasks whose id tells when they were queued
        self.forget()

    def forget(self) -> None:
        """Forget every write: the journal will be read from its beginning."""
        self.databases, self.newest = {}, NO_TASK
        self.written, self.places = defaultdict(set), defaultdict(set)

    def has(self, identity: Identity, name: bytes) -> bool:
        """Whether the write of this identity stands in the log. `name`: the identity's bytes, task and mark."""
        for written in self.written.values():
            if name in written:
                return True
        # Version 0.1 noted places instead. Most journals have none.
        return bool(self.places) and self._has_place(identity)

    def _has_place(self, identity: Identity) -> bool:
        if identity.place is None or identity.place[0] < 0:
            return False
        place = PLACE.pack(identity.task, *identity.place)
        return any(place in places for places in self.places.values())

    def learn_write(self, database: bytes, identity: bytes) -> None:
        """Learn that a write stands in the log."""
        task, mark = identity[:TASK], identity[TASK:]
        if mark != FRESH:
            self.written[database].add(identity)
        if task > self.newest and tells_time(task):
            self.newest = task

    def learn_record(self, record: Intent) -> None:
        """Learn from a record that is not an intent."""
        if record.kind == HEADER:
            trims, self.databases = read_header(record.text)
            if trims != self.trims:
                self.trims, self.learned = trims, time.monotonic()
        elif record.kind == NEWEST:
            self.newest = record.identity[:TASK]
        elif record.kind == KEPT:
            self.written[record.database].update(_each(record.text, IDENTITY))
        else:
            self.places[record.database].update(_each(record.text, PLACE.size))

    def tasks_of(self, database: bytes) -> set[bytes]:
        """The ids of the database's tasks that have a known write."""
        return {name[:TASK] for known in (self.written, self.places) for name in known.get(database, ())}

    def records_without(self, database: bytes, ended: Collection[bytes], number: int) -> bytes:
        """The records of a new journal with all known writes, except those of the database's tasks that have ended.

        `number`: the number of the trim that drops those.
        """
        kept = [header(number, {**self.databases, database: number}), newest(self.newest)]
        for kind, known in ((KEPT, self.written), (PLACES, self.places)):
            for of, names in known.items():
                text = b"".join(name for name in names if of != database or name[:TASK] not in ended)
                if text:
                    kept.append(packed_settled(kind, text, database=of))
        return b"".join(kept)


def _each(text: bytes, length: int) -> Iterator[bytes]:
    return (text[at : at + length] for at in range(0, len(text), length))
