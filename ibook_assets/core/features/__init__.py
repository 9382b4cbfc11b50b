"""The feature engine: one definition of each feature, one kernel that computes it."""
