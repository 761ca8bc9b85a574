"""The site: settings, the root URL table and the ASGI application."""
