"""The HTTP API on tasks: what became of them, and what a client can do to them. docs/http.md describes it for clients."""
