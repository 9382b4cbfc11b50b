"""The orders of a run as they were placed: of a scenario's world, or of days kept as files."""
