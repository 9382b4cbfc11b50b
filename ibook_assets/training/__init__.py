"""Fit, tune, evaluate and report."""
