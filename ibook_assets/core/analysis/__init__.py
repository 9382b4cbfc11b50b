"""Anytime-valid comparison of a model with the champion: looked at as often as one likes."""
