"""Files that somebody made to hurt a reader. Each comes with its name and the refusal it must meet."""
