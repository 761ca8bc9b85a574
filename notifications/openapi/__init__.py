"""What the service offers, as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), and the pages that show it."""
