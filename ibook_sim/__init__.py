"""The simulator: a ticketing world with known truth."""
