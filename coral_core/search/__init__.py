"""Ask/tell strategies over genomes: what to try next, given what was found. No torch, no Prefect."""
