"""Pictures in notebooks.

An SVG that stands in the page is taken out of a notebook that is not trusted, and its words stay behind in a heap. An
image stays whole, but does not know the colours of the page.
"""

from __future__ import annotations

import base64
import html

#: The colour of words and lines: legible on light and on dark pages.
INK = "#777b80"


def image(svg: str, words: str) -> str:
    """Return an SVG as an image in HTML; nothing for nothing.

    Parameters
    ----------
    words
        What it shows, for who does not see it.
    """
    if not svg:
        return ""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{html.escape(words)}" style="max-width: 100%" src="data:image/svg+xml;base64,{data}">'
