"""Stores of tables that the plugin and the advisor kit have alike, each in a database of its own."""
