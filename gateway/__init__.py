"""Unofficial GraphQL gateway for the vehicle management part of the INVERS OneAPI."""

__version__ = "0.1.0"
