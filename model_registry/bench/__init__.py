"""Measurements of the whole product on real weights and pictures, beside what a fleet could use instead."""
