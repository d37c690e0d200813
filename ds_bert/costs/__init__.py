"""What a run costs before it has begun: memory, hours, price, saves and failures."""
