"""Adapters to what keeps data: lake, online store, registry, promotion log."""
