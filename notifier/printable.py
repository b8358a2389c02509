"""Make text from outside safe to show: terminals, mail subjects, logs and messages.

Labels and messages come from engines and exchanges.  Everything that is shown passes here once, so
that no escape sequence, line break or direction override in them can change a screen, a header or a
log line.
"""

import unicodedata

# Cc: C0 and C1 controls (ESC, CSI, CR, LF, NEL); Cf: bidi overrides, zero-width and language tags;
# Zl/Zp: line and paragraph separator; Cs/Co/Cn: lone surrogates, private use and unassigned.
_ESCAPED = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def printable(text: str) -> str:
    """Return *text* with every character that could act on a display written as its escape.

    The result is one line without control characters; ordinary text is returned unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
