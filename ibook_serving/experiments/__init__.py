"""How an experiment stands."""
