"""Who may say what a vehicle runs: key custody, the signed image repository, the director."""
