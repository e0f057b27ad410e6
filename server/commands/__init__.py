"""What operators type: each command is a client of the REST API, and imports what it needs when it runs."""
