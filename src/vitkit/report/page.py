"""Layout and style of the HTML reports. A report is one file without external resources."""

import base64
import io
from html import escape

from PIL import Image

from vitkit.text import printable

STYLE = """
:root { color-scheme: light dark; --paper: #f7f6f3; --card: #ffffff; --ink: #1c1e21; --soft: #686c73; --rule: #e4e2dc;
  --blue: #2a5bd7; --rust: #c2501c; --quiet: #b9bdc6; }
@media (prefers-color-scheme: dark) { :root { --paper: #121417; --card: #1b1e23; --ink: #e8e8e6; --soft: #9ba0a8;
  --rule: #2c3037; --blue: #7ea4ff; --rust: #ff9a62; --quiet: #4a505b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .2rem; }
p { margin: .2rem 0 .9rem; max-width: 68ch; }
p.lead { font-size: 1.08rem; }
.soft, figcaption span { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: .7rem; margin: 1.4rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: .7rem .9rem; }
.tile b { display: block; white-space: nowrap; font-size: 1.4rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums;
  }
.tile.long b { font-size: 1.05rem; line-height: 1.67; }
.tile.first b { color: var(--blue); }
.tile span { color: var(--soft); font-size: .86rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: .9rem; margin-top:
  .7rem; }
.pair h3 { font-size: .95rem; margin: 0 0 .3rem; font-weight: 600; }
.key { font-size: .84rem; color: var(--soft); display: flex; gap: 1.1rem; margin: 0; flex-wrap: wrap; }
.key i { display: inline-block; width: 1rem; height: 3px; border-radius: 2px; vertical-align: middle; margin-right:
  .4rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 13px; }
svg.small, .small svg { max-width: 320px; margin: 0 auto; }
.grid { stroke: var(--rule); stroke-width: 1; }
.ideal { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 4 4; }
polyline { fill: none; stroke-width: 2.4; stroke-linejoin: round; stroke-linecap: round; }
polyline.quiet { stroke: var(--quiet); stroke-width: 1; opacity: .8; }
polyline.train { stroke: var(--rust); }
polyline.val { stroke: var(--blue); }
circle.val { fill: var(--blue); stroke: var(--card); stroke-width: 1.2; }
circle.train { fill: var(--rust); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
table.classes { width: 100%; }
.classes td, .classes th { padding: .3rem .6rem; text-align: right; white-space: nowrap; }
.classes tr + tr td { border-top: 1px solid var(--rule); }
.classes th { color: var(--soft); font-weight: 500; }
.classes :is(td, th):first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; }
.pair > * { min-width: 0; }
.bar { display: inline-block; width: 48px; height: 7px; border-radius: 4px; background: var(--rule); vertical-align:
  middle; margin-right: .5rem; overflow: hidden; }
.bar + b { display: inline-block; min-width: 4.1em; font-weight: 400; }
.bar i { display: block; height: 100%; background: var(--blue); }
table.matrix { margin: 0 auto; }
.matrix td { width: 2.6rem; height: 2.3rem; text-align: center; border: 2px solid var(--card); border-radius: 5px;
  font-size: .88rem; }
.matrix th { font-weight: 500; color: var(--soft); padding: .15rem .45rem; font-size: .88rem; max-width: 9rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix td.zero { color: transparent; background: color-mix(in srgb, var(--rule) 35%, transparent); }
.matrix td.hit { background: color-mix(in srgb, var(--blue) var(--tint), var(--card)); }
.matrix td.miss { background: color-mix(in srgb, var(--rust) var(--tint), var(--card)); font-weight: 650; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: .8rem; margin-top:
  .7rem; }
.images.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 236px), 1fr)); }
.overlay { display: grid; grid-template-columns: 1fr 1fr; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; }
figure img.pixels { image-rendering: pixelated; }
figcaption { padding: .5rem .65rem .6rem; font-size: .88rem; line-height: 1.4; }
figcaption b { font-weight: 650; }
figcaption .wrong { color: var(--rust); font-weight: 650; }
figcaption em { font-style: normal; font-variant-numeric: tabular-nums; }
figcaption small { color: var(--soft); overflow-wrap: anywhere; }
@media (max-width: 560px) { .bar { width: 36px; } .classes td, .classes th { padding: .3rem .35rem; } }
details { margin-top: 2.6rem; }
summary { cursor: pointer; font-weight: 600; }
pre { font-size: .82rem; overflow-x: auto; }
"""


def page(title: str, body: str) -> str:
    """Returns a complete HTML document with the given title and body."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def unreadable_section(names: list[str]) -> str:
    """Returns a section that lists the images that could not be read, or an empty string if there are none."""
    if not names:
        return ""
    rows = "".join(f"<li>{escape(printable(name))}</li>" for name in names)
    return (
        f"<h2>Unreadable images: {len(names):,}</h2><p class='soft'>They were left out of the evaluation, or replaced "
        f"by other images in training.</p><details><summary>Names and reasons</summary><ul>{rows}</ul></details>"
    )


def tile(value: str, name: str, *, first: bool = False) -> str:
    """Returns an HTML box that shows a value and its name, for the main metrics of a report."""
    kinds = " first" * first + " long" * (len(value) > 9)
    return f'<div class="tile{kinds}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def image_tag(image: Image.Image, *, alt: str, most: int = 192) -> str:
    """Returns an HTML tag with an embedded image, which is reduced to at most `most` pixels per side.

    Images of up to 64 pixels per side are lossless, and the browser enlarges them without smoothing.
    """
    shown = image.copy()
    shown.thumbnail((most, most))
    small = max(shown.size) <= 64
    file = io.BytesIO()
    if small:
        shown.save(file, "PNG", optimize=True)
    else:
        shown.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    kind = "png" if small else "jpeg"
    pixels = ' class="pixels"' if small else ""
    return f'<img{pixels} alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'
