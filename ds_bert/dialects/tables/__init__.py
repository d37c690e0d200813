"""The flags of each system, and what they become here."""
