"""The supervisor: it starts workers and upkeep, and keeps them alive."""
