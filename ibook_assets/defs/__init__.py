"""The Dagster graph: assets, checks, schedules, resources."""
