"""Cut and escape text for receivers that count characters."""

from collections.abc import Mapping


def fit(text: str, limit: int, escapes: Mapping[str, str]) -> str:
    """*text* escaped, at most *limit* UTF-16 units long, never cut inside an escape or a character.

    UTF-16 units are how JavaScript and Telegram count; they are never fewer than characters.

    Args:
        limit: at least 1; a cut text ends with an ellipsis.
        escapes: character -> what stands for it.
    """
    parts: list[str] = []
    used = 0
    kept = 0  # parts that leave room for the ellipsis
    for character in text:
        part = escapes.get(character, character)
        used += units(part)
        if used > limit:
            return "".join(parts[:kept]) + "…"
        parts.append(part)
        if used < limit:
            kept = len(parts)
    return "".join(parts)


def units(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text) + sum(ord(character) > 0xFFFF for character in text)
