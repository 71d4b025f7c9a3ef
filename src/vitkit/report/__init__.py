"""HTML reports of training runs and evaluations, and the prediction files next to them.

A report is one HTML file without external resources. `page` is the layout, `charts` draws SVG, `confusion` and
`mistakes` are sections of both reports, `training` and `evaluation` are the two reports. A section is a function that
returns HTML. `gallery` shows mistakes with one script (`gallery.js`), the images of `thumbnails` and the maps of
`attention`. `predictions` writes CSV and Parquet. Nothing here trains or evaluates a model.
"""
