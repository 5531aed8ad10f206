"""Runtime library of the three plugins and the advisor kit: what must be done byte for byte alike."""
