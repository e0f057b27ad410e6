"""What a trustworthy model artifact is, and how one is made. Knows no HTTP, no SQL and no fleet."""
