"""A lane works through jobs: it trains adapters, evaluates genomes and publishes the results."""
