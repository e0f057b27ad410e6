"""What the registry decides. Services take a transaction's session and values, and know neither HTTP nor torch."""
