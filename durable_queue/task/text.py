"""Text as everything takes it that keeps or shows it: both databases, pages, the titles of processes."""


def storable(text: str) -> str:
    """The text without NUL and lone surrogates, which no database stores and no page can be encoded with."""
    if text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
