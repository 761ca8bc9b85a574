"""The tables of the cluster, and the claim index on django-q2 queue table."""
