"""`make demo`: the story of an advised node, told on real parts; exit code 0 only if every step held."""
