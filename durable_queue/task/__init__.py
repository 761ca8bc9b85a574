"""A task: its id, its payload, its calls, its retry policy, and the attempt in hand."""
