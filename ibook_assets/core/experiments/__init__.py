"""Experiments: definitions, the units they count, and statistics that may be looked at any time."""
