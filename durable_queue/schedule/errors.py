"""What is wrong with a rule."""


class RuleError(ValueError):
    """The rule can never be computed. The text says what is wrong and what to do."""


def short(value: object) -> str:
    """What stands in a field, for a message that a database and a page can take: as Python writes it, cut off."""
    text = repr(value[:100]) if isinstance(value, str) else repr(value)
    return text if len(text) <= 400 else f"{text[:400]}…"  # noqa: PLR2004 - nobody reads more
