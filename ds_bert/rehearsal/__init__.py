"""What can be tried before a run: its cost told, a few steps timed, a few sequences learnt."""
