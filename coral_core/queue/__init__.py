"""How jobs reach lanes of other processes and machines: tickets, claims and lane notes in the store."""
