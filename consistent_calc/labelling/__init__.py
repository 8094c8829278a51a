"""Labelling by quantum chemistry and its surrogates: engines, and jobs that run them over a store."""
