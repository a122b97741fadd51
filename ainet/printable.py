"""Text that others wrote, as a terminal may show it: control characters are seen, and not carried out."""

from __future__ import annotations

#: Characters that move the cursor, begin a command, ring, or turn the direction of what follows.
_SHOWN: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))},
}


def visible(text: str) -> str:
    """Return the text with a picture in the place of each control character; line ends and tabs stay."""
    return text.translate(_SHOWN)
