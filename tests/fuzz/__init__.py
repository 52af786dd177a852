"""The fuzz test: forged input of every kind, damaged by a seed, through the whole command line.

``python -m pytest tests/fuzz`` runs a fixed number of cases; ``python -m tests.fuzz --minutes 30`` runs until then and
prints what it counted. The same seed makes the same case.
"""
