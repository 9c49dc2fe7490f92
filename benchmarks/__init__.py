"""Programs behind the numbers that we claim."""
