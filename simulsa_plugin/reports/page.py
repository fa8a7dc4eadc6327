"""A report as one HTML file: style, scripts and data are inside it, and a policy forbids every request.

Charts are drawn by Chart.js (MIT, 210 kB, with chartjs-plugin-zoom, 15 kB): well kept, and drawn on a canvas, so that
a page with hundreds of points stays light. It lies in `assets/vendor`, and comes into the page itself.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from simulsa_plugin.terminal import html_text

CHARTS = ("vendor/chart.js", "vendor/chartjs-plugin-zoom.js", "charts.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"


def render_page(title: str, sections: Iterable[str], data: Any, scripts: Sequence[str]) -> str:
    """Return a report's HTML; its bytes depend on the arguments alone.

    Args:
        title: of the page, as text.
        sections: HTML of the page below the title; whatever it shows must be escaped, see `html_text`.
        data: JSON that the scripts read as `data`; escaped here.
        scripts: names of assets after `page.js`, in order, such as `*CHARTS`.
    """
    body = "\n".join(sections)
    code = "".join(f"<script>{_script(name)}</script>\n" for name in ("page.js", *scripts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{html_text(title)}</title>\n<style>\n{_asset('style.css')}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f'<header><h1>{html_text(title)}</h1><button id="theme" class="theme" type="button"></button></header>\n'
        f'<main id="content">\n{body}\n</main>\n'
        f'<script id="data" type="application/json">{embedded_json(data)}</script>\n{code}</body>\n</html>\n'
    )


def embedded_json(data: Any) -> str:
    r"""Return JSON that may stand inside a script element.

    >>> embedded_json({"text": "</script><b>"})
    '{"text": "\\u003c/script>\\u003cb>"}'
    """
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        label: its head.
        numeric: whether its values are numbers: aligned to the right, sorted as numbers.
        title: an explanation, shown where the mouse rests.
    """

    label: str
    numeric: bool = False
    title: str = ""


@dataclass(frozen=True)
class Value:
    """A value in a table.

    Attributes:
        text: what is shown.
        number: what counts when the table is sorted; None where there is none.
        interval: shown below it, smaller.
        count: likewise.
        best: whether it is the best of its column, or significantly better.
        worse: whether it is significantly worse.
    """

    text: str
    number: float | None = None
    interval: str = ""
    count: str = ""
    best: bool = False
    worse: bool = False


def html_table(columns: Sequence[Column], rows: Iterable[Sequence[Value | str]], caption: str = "") -> str:
    """Return a table that sorts, inside a box that scrolls where the screen is narrow; texts are escaped here."""
    heads = "".join(
        f'<th scope="col"{_class("number" * column.numeric)}{_title(column.title)}>{html_text(column.label)}</th>'
        for column in columns
    )
    lines = "".join(f"<tr>{''.join(map(_cell, columns, row))}</tr>\n" for row in rows)
    label = html.escape(caption or "Table", quote=True)
    above = f"<figcaption>{html_text(caption)}</figcaption>" if caption else ""  # a <caption> would scroll, and be cut
    return (
        f'<figure class="table">{above}<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="sortable" aria-label="{label}">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody></table></div></figure>"
    )


def settings_list(values: Mapping[str, Any]) -> str:
    """Return keys and values as a list; texts are escaped here."""
    lines = "".join(
        f"<dt>{html_text(str(key))}</dt><dd><code>{html_text(_as_text(value))}</code></dd>"
        for key, value in values.items()
    )
    return f'<dl class="settings">{lines}</dl>'


def cards(values: Mapping[str, str]) -> str:
    """Return a few values that should be seen first, each with its name."""
    items = "".join(f"<li><b>{html_text(value)}</b>{html_text(name)}</li>" for name, value in values.items())
    return f'<ul class="cards">{items}</ul>'


def _cell(column: Column, value: Value | str) -> str:
    value = Value(value) if isinstance(value, str) else value
    kinds = {"number": column.numeric, "best": value.best, "worse": value.worse}
    kind = " ".join(name for name, is_so in kinds.items() if is_so)
    key = "" if not column.numeric else f' data-value="{"" if value.number is None else value.number!r}"'
    more = "".join(
        f'<span class="{name}">{html_text(text)}</span>'
        for name, text in (("interval", value.interval), ("count", value.count))
        if text
    )
    return f"<td{_class(kind)}{key}>{html_text(value.text)}{more}</td>"


def _as_text(value: Any) -> str:
    """Return a value as YAML and the command line write it; a dash where there is none.

    >>> _as_text([500, 1000]), _as_text(True), _as_text(None), _as_text([])
    ('500, 1000', 'true', '–', '–')
    """
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(_as_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value in (None, "") else str(value)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _title(text: str) -> str:
    return f' title="{html.escape(text, quote=True)}"' if text else ""


def _script(name: str) -> str:
    return _asset(name).replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return resources.files("simulsa_plugin.reports").joinpath("assets", name).read_text(encoding="utf-8")
