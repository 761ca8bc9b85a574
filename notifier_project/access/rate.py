"""How many requests a client may make: a token bucket for each, in this process's memory.

Approximate on purpose: each web process gives its share of the limit, and each host counts for itself.
"""

import ipaddress
import math
import re
import time
from functools import lru_cache

SECONDS = {"s": 1, "m": 60, "h": 3600}
FORM = re.compile(r"([1-9]\d{0,8})/([smh])")
MOST = 50_000  # clients that are remembered, twice: of more, those that were not seen for longest begin anew


class RateLimit:
    """Counts each client's requests by the moment up to which it has used its share (the "virtual scheduling" of GCRA)."""

    def __init__(self, text: str, processes: int) -> None:
        """`text`: "100/s", "1000/m" or "10000/h". `processes`: among which it is shared. Raises ValueError."""
        found = FORM.fullmatch(text)
        if not found:
            raise ValueError(text)
        share = int(found[1]) / processes
        self._interval = SECONDS[found[2]] / share  # seconds for one request
        # Seconds that a client may be ahead of the clock; a little more, since sums are rounded.
        self._ahead = self._interval * max(0.0, share - 1) + 1e-6
        self._recent: dict[str, float] = {}
        self._older: dict[str, float] = {}

    def wait(self, client: str) -> int:
        """Take one request from a client's share: 0, or the whole seconds until it may come again; then none was taken."""
        now = time.monotonic()
        used = self._recent.get(client)
        if used is None:
            used = self._older.get(client, now)
        if used - now > self._ahead:
            return math.ceil(used - now - self._ahead)
        self._recent[client] = max(used, now) + self._interval
        if len(self._recent) >= MOST:
            self._older, self._recent = self._recent, {}
        return 0


@lru_cache(maxsize=10_000)
def client_of(address: str) -> str:
    """Whose requests are counted together: an address; of IPv6 the network of 64 bits, all of which one client may have."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
