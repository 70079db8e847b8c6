"""The platform's side: doors that call an aggregator's endpoint as the platform does."""
