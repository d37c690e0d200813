"""What can be known of hosts before a run starts on them."""
