"""Who may do what, and how much: tokens, proxies, rates, room. `gate.py` is what every request of a client passes."""
