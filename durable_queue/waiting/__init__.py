"""Wait for tasks, groups, chains and iterations: what `django_q.tasks` says, and no longer than anything can still come."""
