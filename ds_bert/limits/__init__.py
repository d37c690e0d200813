"""What settings may be, and which of them go together."""
