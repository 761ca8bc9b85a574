"""Who may do what, and how much: tokens, proxies, limits. `gate.py` is what every request of a client passes."""
