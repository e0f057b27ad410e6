"""All SQL of the registry, by subject. Functions take the session of the caller's transaction, and decide nothing."""
