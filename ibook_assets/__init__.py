"""The platform: pure core, models, stores, training and the Dagster graph."""
