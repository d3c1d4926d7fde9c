"""Weave Net, whose router is a program of its own."""
