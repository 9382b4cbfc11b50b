"""Every prediction kept, shipped, and found again."""
