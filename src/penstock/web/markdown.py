"""Markdown that people wrote, as HTML that can do nothing: no tags of theirs, no pictures."""

from __future__ import annotations

import functools

from markdown_it import MarkdownIt
from markupsafe import Markup

MOST = 256 << 10


def html(text: str) -> Markup:
    r"""Return Markdown as HTML; headings begin at the second level, below the page's own.

    Tags are shown as text, pictures as links' texts; an address that could act is no link.

    Examples
    --------
    >>> html("# Title\n<b>bold</b> *soft* [x](javascript:y)")
    Markup('<h2>Title</h2>\n<p>&lt;b&gt;bold&lt;/b&gt; <em>soft</em> [x](javascript:y)</p>\n')
    """
    reader = _reader()
    tokens = reader.parse(text[:MOST])
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1:]) + 1, 6)}"
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs.pop("title", None)
                child.attrSet("rel", "nofollow noopener noreferrer")
    drawn = str(reader.renderer.render(tokens, reader.options, {}))
    # Its cells are aligned by a style attribute, which our policy forbids; we write none such.
    return Markup(drawn)  # noqa: S704 -- made without the author's tags


@functools.cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "maxNesting": 20})
    return reader.enable("table").disable(["image", "html_block", "html_inline"])
