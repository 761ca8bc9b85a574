"""What is wrong with a rule."""

LONGEST = 400  # characters of a value in a message


class RuleError(ValueError):
    """The rule can never be computed. The text says what is wrong and what to do."""


def short(value: object) -> str:
    """What stands in a field, for a message that a database and a page can take: as Python writes it, cut off."""
    try:
        text = repr(value[:100]) if isinstance(value, str) else repr(value)
    except Exception:  # a number of 5,000 digits, for one
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
