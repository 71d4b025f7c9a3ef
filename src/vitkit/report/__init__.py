"""HTML reports of training runs and evaluations.

A report is one HTML file without scripts or external resources. `page` is the layout, `charts` draws SVG, `confusion`
and `mistakes` are sections of both reports, `training` and `evaluation` are the two reports. A section is a function
that returns HTML. Nothing here trains or evaluates a model.
"""
