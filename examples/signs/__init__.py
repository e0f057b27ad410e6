"""Road signs: a renderer, and the recipe that trains and compresses the three bundled versions."""
