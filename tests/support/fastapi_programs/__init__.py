"""The two FastAPI programs that Notifier stands in for: each writes `log.txt` in the folder that it runs in."""
