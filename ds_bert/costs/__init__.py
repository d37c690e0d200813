"""What a run costs before it has begun: saves, failures."""
