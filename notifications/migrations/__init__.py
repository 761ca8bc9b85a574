"""The table of the log's journals."""
