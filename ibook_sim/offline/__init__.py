"""Runs played from beginning to end without a server: planned, spoilt, queued and scored."""
