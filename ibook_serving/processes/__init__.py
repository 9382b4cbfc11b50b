"""The server's processes: one supervisor, the API processes it keeps alive, and how they listen."""
