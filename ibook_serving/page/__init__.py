"""The page at `/`: whether all is well, what is served, and where a prediction comes from.

The server writes it whole (`document` with `live`, `evidence` and `lookup`), so that it is of use
without scripts; `static/page.js` keeps its numbers fresh. Nothing comes from elsewhere.
"""
