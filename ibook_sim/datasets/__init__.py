"""Worlds and scenarios as tables: Parquet by day, a scenario's days, the reference data set."""
