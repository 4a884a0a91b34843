"""Formats of what clients and workers send to one another, a file for each kind. Composes and reads; sends nothing."""
