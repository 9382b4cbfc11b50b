"""What serving loads: the artefact format and its scorer."""
