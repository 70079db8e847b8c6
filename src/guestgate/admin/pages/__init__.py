"""The pages for support and operators: rendered here, live where that helps, and nothing from elsewhere."""
