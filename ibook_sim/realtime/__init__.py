"""Load in real time: an open-loop schedule, pre-encoded orders, and latency as users meet it."""
