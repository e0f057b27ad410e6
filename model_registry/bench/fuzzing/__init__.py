"""Hostile bytes against both decoders: mutated artifacts from two engines, in child processes, with bounds on time and memory.

    seeds.py      small contents of every encoding, and the artifacts that start the search
    mutations.py  one artifact into another, at every depth of the format
    target.py     one input against a decoder: a refusal, a content, or a finding
    engines.py    the child process: Hypothesis (seeded) or Atheris (guided by coverage)
    runs.py       the parent: starts the children, keeps what they find, reports

An input is an artifact; a delta names one of the known bases. What a run finds is a file that reproduces it alone.
"""
