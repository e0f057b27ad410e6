"""How bytes inside artifacts are coded: sections, one tensor's values, and the three delta codecs."""
