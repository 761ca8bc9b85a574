"""What proxies say of a request: who the client is, whether it spoke HTTPS, and which host it asked for.

Only trusted proxies are believed, and no such header gets any further: Django sees a request that came to it directly.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FOR, PROTO, HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
FORWARDED = frozenset({FOR, PROTO, HOST})
MAPPED = "::ffff:"  # so begins an IPv4 address as a socket of IPv6 shows it (RFC 4291, section 2.5.5.2)
SCHEMES = frozenset({"http", "https"})


class Proxies:
    """The trusted ones.

    Which address is trusted, and which one in X-Forwarded-For is the client, uvicorn's middleware knows. The middleware itself
    does not do: it leaves the headers of strangers to Django, and knows no X-Forwarded-Host.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses and networks."""
        self._trusted = ProxyHeadersMiddleware(_no_application, trusted_hosts=list(networks)).trusted_hosts

    def apply(self, scope: dict[str, Any]) -> None:
        """Take the headers of proxies out of a request's scope, and what a trusted one says into it."""
        if (peer := scope.get("client")) and peer[0].startswith(MAPPED):
            scope["client"] = peer = (as_ipv4(peer[0]), *peer[1:])
        for name, _ in scope["headers"]:
            if name in FORWARDED:
                break
        else:
            return
        values: dict[bytes, list[str]] = {}
        others = []
        for name, value in scope["headers"]:
            if name in FORWARDED:
                values.setdefault(name, []).append(value.decode("latin-1"))
            else:
                others.append((name, value))
        scope["headers"] = others
        if peer and peer[0] in self._trusted:
            self._believe(scope, {name: ",".join(lines) for name, lines in values.items()})

    def _believe(self, scope: dict[str, Any], said: dict[bytes, str]) -> None:
        if FOR in said:
            addresses = ",".join(as_ipv4(address.strip()) for address in said[FOR].split(","))
            address, port = self._trusted.get_trusted_client_address(addresses)
            if _is_address(address):
                scope["client"] = (as_ipv4(address), port)
        # The last value is the nearest proxy's own; what stands before it may be the client's.
        scheme, host = (said.get(name, "").rpartition(",")[2].strip() for name in (PROTO, HOST))
        if scheme.lower() in SCHEMES:
            scope["scheme"] = scheme.lower()
        if host:
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope["headers"] = [*others, (b"host", host.encode("latin-1"))]


@lru_cache(maxsize=4096)
def as_ipv4(text: str) -> str:
    """An IPv4 address that is written as one of IPv6 as itself (all of them are in one network there); all else as it is."""
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return text
    return str(mapped) if mapped else text


@lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _no_application(*_: Any) -> None:
    """Answer nothing: uvicorn's middleware is never called."""
