"""The asking side: finds a model, places and loads it, answers, and survives losses."""
