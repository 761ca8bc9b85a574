"""When a schedule runs: its rule, by arithmetic. Knows neither the database nor Django."""
