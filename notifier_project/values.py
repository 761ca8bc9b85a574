"""What the values of settings may be. Each validator raises ValidationError with a reason for people."""

import ipaddress
import re
import sys
from typing import NoReturn
from zoneinfo import ZoneInfo

from environs import ValidationError

from notifier_project.access import rate


def are_host_names(values: list[str]) -> None:
    """Refuse a value that can never match a Host header, such as a URL."""
    for value in values:
        if not re.fullmatch(r"\*|\.?[\w.-]+|\[[0-9A-Fa-f:.]+\]", value):
            raise ValidationError(f"{value!r} is not a host name; write names without scheme, port and path.")


def is_time_zone(name: str) -> None:
    """Refuse a name that no time zone has. An empty one stands for TIME_ZONE."""
    try:
        ZoneInfo(name or "UTC")
    except (LookupError, ValueError, OSError) as error:
        raise ValidationError(f"There is no time zone {name!r}; write one such as Europe/Berlin.") from error


def are_networks(values: list[str]) -> None:
    """Refuse what is neither an address nor a network."""
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValidationError(f"{error}; write addresses and networks, such as 10.0.0.2,10.1.0.0/16.") from error


def are_origins(values: list[str]) -> None:
    """Refuse what no browser sends as a form's origin."""
    for value in values:
        if not re.fullmatch(r"https?://(\*\.)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?", value):
            raise ValidationError(f"{value!r} is no origin; write scheme and host, such as https://notify.example.com.")


def is_rate(value: str) -> None:
    """Refuse what is no rate. An empty one stands for none."""
    if value and not rate.FORM.fullmatch(value):
        raise ValidationError(f"{value!r} is no rate; write requests per second, minute or hour: 100/s, 1000/m, 10000/h.")


def refuse(variable: str, remedy: str) -> NoReturn:
    """Stop the start with a line that names the variable."""
    sys.exit(f"Wrong setting. {variable}: {remedy}")
