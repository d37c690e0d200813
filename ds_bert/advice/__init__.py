"""Which run to make of a corpus, hardware and hours: rules with their sources, and the recipe."""
