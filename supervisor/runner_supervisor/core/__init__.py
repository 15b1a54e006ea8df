"""Decisions without I/O: every function takes what was observed and returns what to do. Time is an argument."""
