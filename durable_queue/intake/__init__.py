"""How a task gets into the queue."""
