"""Things to run and to read: the demonstration and the road-sign example."""
