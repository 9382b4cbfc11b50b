"""Pure rules of the platform: no I/O, no clock, no orchestrator."""
