"""Streaming: from the log to the lake and to the online store, exactly once."""
