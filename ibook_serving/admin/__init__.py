"""What operators ask of the server: which models there are, which of them serve."""
