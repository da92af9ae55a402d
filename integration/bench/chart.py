"""The results as an SVG drawing: a panel for each measure, a bar for each way, a line from least to most."""

from __future__ import annotations

from html import escape

from report import Spread, shown, spreads
from rounds import Results

# Workload, metric, title, whether more is better.
PANELS = (
    ("small", "requests_per_second", "1 KiB GET, 32 connections: requests/s", True),
    ("small", "cpu_seconds_per_1000", "the same: CPU seconds of both Envoys per 1,000 requests", False),
    ("connections", "requests_per_second", "a connection for every request: requests/s", True),
    ("polling", "bytes_per_exchange", "polling with cookie and token: bytes on the wire per exchange", False),
    ("polling_16_users", "bytes_per_exchange", "polling of 16 users: bytes on the wire per exchange", False),
    ("bulk_down_1", "megabytes_per_second", "one download: MB/s", True),
    ("bulk_up_1", "megabytes_per_second", "one upload: MB/s", True),
    ("bulk_down_8", "megabytes_per_second", "eight downloads: MB/s", True),
    ("bulk_up_8", "megabytes_per_second", "eight uploads: MB/s", True),
    ("mixed", "p99_ms", "1 KiB GET beside two downloads: p99, ms", False),
    ("distance_first", "p50_ms", "first request with 25 ms each way: ms", False),
    ("distance_polling", "requests_per_second", "one client polling, 25 ms each way: requests/s", True),
    ("distance_bulk_down", "megabytes_per_second", "one download, 25 ms each way: MB/s", True),
    ("distance_bulk_up", "megabytes_per_second", "one upload, 25 ms each way: MB/s", True),
    ("streams_polls_10000", "near_kib_per_stream", "10,000 idle long polls: KiB a stream, near Envoy", False),
    ("streams_polls_10000", "far_kib_per_stream", "10,000 idle long polls: KiB a stream, far Envoy", False),
)
COLOURS = {
    "http1": "#9aa0a6",
    "http2": "#5f7fa8",
    "wsferry": "#d9730d",
    "wsferry_credentials": "#a34e00",
    "wsferry_no_credentials": "#f0b27a",
}
OTHER_COLOUR = "#7a9a6a"

COLUMNS = 2
PANEL_WIDTH = 460
LABEL_WIDTH = 130
VALUE_WIDTH = 70
BAR = 16
GAP = 5
TITLE = 26
MARGIN = 24


def draw(results: Results, about: str) -> str:
    panels = []
    for workload, metric, title, more_is_better in PANELS:
        ways = {way: spreads(samples) for way, samples in results.samples.get(workload, {}).items()}
        bars = {way: spread[metric] for way, spread in ways.items() if metric in spread}
        if bars:
            panels.append((f"{title} ({'more' if more_is_better else 'less'} is better)", bars))
    height = MARGIN + 40
    body = [text(MARGIN, MARGIN + 4, "wsferry beside plain HTTP between the same two Envoys", 16, "bold")]
    body.append(text(MARGIN, MARGIN + 24, about, 10))
    for start in range(0, len(panels), COLUMNS):
        row = panels[start : start + COLUMNS]
        for column, (title, bars) in enumerate(row):
            body += panel(MARGIN + column * (PANEL_WIDTH + MARGIN), height, title, bars)
        height += TITLE + max(len(bars) for _, bars in row) * (BAR + GAP) + MARGIN
    width = MARGIN + COLUMNS * (PANEL_WIDTH + MARGIN)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="system-ui, sans-serif">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def panel(x: int, y: int, title: str, bars: dict[str, Spread]) -> list[str]:
    most = max(spread.high for spread in bars.values()) or 1
    scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / most
    lines = [text(x, y + 12, title, 11, "bold")]
    left = x + LABEL_WIDTH
    for index, (way, spread) in enumerate(bars.items()):
        top = y + TITLE - 4 + index * (BAR + GAP)
        middle = top + BAR / 2
        colour = COLOURS.get(way, OTHER_COLOUR)
        lines.append(text(left - 6, top + BAR - 4, way, 11, anchor="end"))
        lines.append(
            f'<rect x="{left}" y="{top}" width="{spread.median * scale:.1f}" height="{BAR}" fill="{colour}"/>'
        )
        lines.append(
            f'<line x1="{left + spread.low * scale:.1f}" x2="{left + spread.high * scale:.1f}" y1="{middle}"'
            f' y2="{middle}" stroke="#202124" stroke-width="1.5"/>'
        )
        lines.append(text(left + spread.high * scale + 5, top + BAR - 4, shown(spread.median), 11))
    return lines


def text(x: float, y: float, content: str, size: int, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="#202124">{escape(content)}</text>'
    )
