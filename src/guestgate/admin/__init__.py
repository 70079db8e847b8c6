"""The admin listener: the API for the aggregator's own systems, and what monitoring reads."""
