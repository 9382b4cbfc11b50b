"""How the server stands: its numbers over all processes, and the evidence behind what it serves."""
