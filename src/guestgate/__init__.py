"""Check-in validation for fitness aggregators."""

__version__ = "0.1.0"
