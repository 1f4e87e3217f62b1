"""Admission control and load shedding."""
