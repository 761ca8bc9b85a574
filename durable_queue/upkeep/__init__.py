"""What is done again and again beside the work: heartbeats, schedules, pruning."""
