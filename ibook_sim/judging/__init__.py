"""What a run found, and whether it holds: books, labels, drift, calibration, objectives."""
