"""All of the registry that a vehicle gets: formats, decoding, wire messages, refusals.

Imports the standard library, numpy, constriction and zstandard, and nothing above it.
"""
