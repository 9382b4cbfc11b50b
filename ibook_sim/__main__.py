"""`python -m ibook_sim`."""

from ibook_sim.cli import app

app(prog_name="python -m ibook_sim")
