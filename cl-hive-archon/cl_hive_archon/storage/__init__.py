"""The only place with SQL: one store per family of tables."""
