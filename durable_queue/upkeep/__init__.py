"""Upkeep: the duties that a cluster does again and again while its workers run tasks. Each module has one duty."""
